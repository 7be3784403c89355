//! Lines of a results file, sorted into runs, cases and contenders.
//!
//! Lines in, [`Run`]s out; pure. Figures of different runs are never mixed: what a byte costs
//! depends on what else the machine did that hour.

use crate::results::{Cost, Line, Load, Machine, median};

/// What was measured in one go.
#[derive(Default)]
pub(crate) struct Run {
    /// The file that it comes from, without its ending.
    pub(crate) name: String,
    /// Where it was measured; `None` when the file does not say.
    pub(crate) machine: Option<Machine>,
    /// Costs, at most one for a case, contender and unit.
    pub(crate) costs: Vec<Cost>,
    /// Loads, one for each case and contender.
    pub(crate) loads: Vec<Loads>,
}

/// All repetitions of one case by one contender.
pub(crate) struct Loads {
    /// The contender.
    pub(crate) contender: String,
    /// The case.
    pub(crate) case: String,
    /// Its repetitions; never empty.
    pub(crate) repetitions: Vec<Load>,
}

/// Sorts `lines` into runs: each begins with its machine. Loads that were made one after the other
/// on one machine, by several calls of the verb `run`, are one run: somebody wants to compare them.
pub(crate) fn of(name: &str, lines: Vec<Line>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for run in split(name, lines) {
        match runs.last_mut() {
            Some(last) if last.goes_on_in(&run) => last.join(run),
            _ => runs.push(run),
        }
    }
    runs
}

fn split(name: &str, lines: Vec<Line>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for line in lines {
        if runs.is_empty() || matches!(line, Line::Machine(_)) {
            runs.push(Run { name: name.to_owned(), ..Run::default() });
        }
        let Some(run) = runs.last_mut() else { continue };
        match line {
            Line::Machine(machine) => run.machine = Some(machine),
            Line::Cost(cost) => run.add_cost(cost),
            Line::Load(load) => run.add_load(load),
        }
    }
    runs.retain(|run| !run.costs.is_empty() || !run.loads.is_empty());
    runs
}

impl Run {
    /// Whether `next` is more of the same: loads only, the same machine, and soon after.
    fn goes_on_in(&self, next: &Self) -> bool {
        let (Some(machine), Some(later)) = (&self.machine, &next.machine) else {
            return false;
        };
        let place =
            |machine: &Machine| Machine { unix_time: 0, command: String::new(), ..machine.clone() };
        let soon = later.unix_time.saturating_sub(machine.unix_time) < SESSION_SECONDS;
        self.costs.is_empty() && next.costs.is_empty() && soon && place(machine) == place(later)
    }

    fn join(&mut self, next: Self) {
        for load in next.loads.into_iter().flat_map(|loads| loads.repetitions) {
            self.add_load(load);
        }
        if let (Some(machine), Some(later)) = (&mut self.machine, next.machine) {
            machine.command.push_str(" … ");
            machine.command.push_str(&later.command);
        }
    }

    fn add_cost(&mut self, cost: Cost) {
        let same = |known: &&mut Cost| {
            (&known.case, &known.contender, &known.unit)
                == (&cost.case, &cost.contender, &cost.unit)
        };
        match self.costs.iter_mut().find(same) {
            Some(known) => {
                known.samples.extend(cost.samples);
                known.gib_per_second.extend(cost.gib_per_second);
                known.verdict = cost.verdict.or(known.verdict.take());
            }
            None => self.costs.push(cost),
        }
    }

    fn add_load(&mut self, load: Load) {
        let same =
            |known: &&mut Loads| known.case == load.case && known.contender == load.contender;
        match self.loads.iter_mut().find(same) {
            Some(known) => known.repetitions.push(load),
            None => self.loads.push(Loads {
                contender: load.contender.clone(),
                case: load.case.clone(),
                repetitions: vec![load],
            }),
        }
    }

    /// The units of its costs, each once, in the order in which they are worth reading.
    pub(crate) fn units(&self) -> Vec<&str> {
        let mut units = unique(self.costs.iter().map(|cost| cost.unit.as_str()));
        units.sort_by_key(|unit| UNITS.iter().position(|known| known == unit));
        // What is not known sorts first, as `None`; it belongs after what is.
        let unknown = units.iter().take_while(|unit| !UNITS.contains(unit)).count();
        units.rotate_left(unknown);
        units
    }

    /// The cases that have a cost in `unit`, in the order in which they were measured.
    pub(crate) fn cases(&self, unit: &str) -> Vec<&str> {
        let of_unit = self.costs.iter().filter(|cost| cost.unit == unit);
        unique(of_unit.map(|cost| cost.case.as_str()))
    }

    /// The costs of `case` in `unit`, ours first, the floor last.
    pub(crate) fn costs_of(&self, case: &str, unit: &str) -> Vec<&Cost> {
        let wanted = |cost: &&Cost| cost.case == case && cost.unit == unit;
        let mut costs: Vec<&Cost> = self.costs.iter().filter(wanted).collect();
        costs.sort_by_key(|cost| rank(&cost.contender));
        costs
    }

    /// The cases that were loaded, in the order in which they were measured.
    pub(crate) fn load_cases(&self) -> Vec<&str> {
        unique(self.loads.iter().map(|loads| loads.case.as_str()))
    }

    /// The loads of `case`, ours first, the floor last.
    pub(crate) fn loads_of(&self, case: &str) -> Vec<&Loads> {
        let mut loads: Vec<&Loads> = self.loads.iter().filter(|loads| loads.case == case).collect();
        loads.sort_by_key(|loads| rank(&loads.contender));
        loads
    }

    /// Which of the page's colours is `contender`'s: the same one in all its plots.
    pub(crate) fn colour(&self, contender: &str) -> usize {
        let names = self.costs.iter().map(|cost| cost.contender.as_str());
        let names = names.chain(self.loads.iter().map(|loads| loads.contender.as_str()));
        let (known, others): (Vec<&str>, Vec<&str>) =
            unique(names).into_iter().partition(|name| CONTENDERS.contains(name));
        if let Some(place) = CONTENDERS.iter().position(|name| *name == contender) {
            return place;
        }
        let place = others.iter().position(|name| *name == contender).unwrap_or_default();
        let free = if known.is_empty() { &SPREAD[..] } else { &UNUSED[..] };
        free.get(place % free.len()).copied().unwrap_or_default()
    }

    /// How many verdicts there are, and how many bars were met.
    pub(crate) fn verdicts(&self) -> (usize, usize) {
        let verdicts = self.costs.iter().filter_map(|cost| cost.verdict.as_ref());
        let met = verdicts.clone().filter(|verdict| verdict.is_met()).count();
        (verdicts.count(), met)
    }
}

impl Loads {
    /// The middle of what `figure` says of each repetition.
    pub(crate) fn middle(&self, figure: impl Fn(&Load) -> f64) -> f64 {
        let figures: Vec<f64> = self.repetitions.iter().map(figure).collect();
        median(&figures)
    }

    /// The middle of the latencies in microseconds at each of the file's percentiles, as far as
    /// all repetitions have them.
    pub(crate) fn latencies(&self) -> Vec<f64> {
        let lengths = self.repetitions.iter().map(|load| load.latency_us.len());
        let length = lengths.min().unwrap_or_default();
        let at = |place: usize| {
            self.middle(|load| load.latency_us.get(place).map_or(0.0, |us| *us as f64))
        };
        (0..length).map(at).collect()
    }

    /// The repetition whose bytes a second are the middle ones.
    pub(crate) fn typical(&self) -> Option<&Load> {
        let mut sorted: Vec<&Load> = self.repetitions.iter().collect();
        sorted.sort_by(|a, b| pace(a).total_cmp(&pace(b)));
        sorted.get(sorted.len() / 2).copied()
    }

    /// What failed, by cause, over all repetitions.
    pub(crate) fn failures(&self) -> Vec<(&str, u64)> {
        let causes = self.repetitions.iter().flat_map(|load| &load.failures);
        let mut sums = std::collections::BTreeMap::<&str, u64>::new();
        for (cause, count) in causes {
            *sums.entry(cause).or_default() += count;
        }
        sums.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

/// Body bytes a second, both ways together.
pub(crate) fn pace(load: &Load) -> f64 {
    per_second(load, (load.bytes_up + load.bytes_down) as f64)
}

/// `count` over the seconds of `load`; 0 where it took no time.
pub(crate) fn per_second(load: &Load, count: f64) -> f64 {
    if load.seconds > 0.0 { count / load.seconds } else { 0.0 }
}

/// Each item once, where it first stood.
fn unique<'a>(items: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

fn rank(contender: &str) -> usize {
    let known = CONTENDERS.iter().position(|known| *known == contender);
    match known {
        Some(place) if CONTENDERS.get(place + 1).is_none() => usize::MAX,
        Some(place) => place,
        None => CONTENDERS.len(),
    }
}

/// Whether `contender` is this project's own proxy.
pub(crate) fn is_ours(contender: &str) -> bool {
    contender.starts_with("ours-")
}

/// The contenders of `compare`, in the order in which they are shown.
const CONTENDERS: [&str; 6] = ["ours-uring", "ours-epoll", "haproxy", "nginx", "envoy", "floor"];
/// The colours that no contender of `compare` has, and all of them, those apart first.
const UNUSED: [usize; 4] = [6, 7, 8, 9];
const SPREAD: [usize; 10] = [0, 2, 3, 4, 6, 8, 7, 9, 1, 5];
/// Loads that are further apart than this are not compared: the machine was another by then.
const SESSION_SECONDS: u64 = 3600;
const UNITS: [&str; 3] = ["cpu-s/GiB", "us/request", "KiB/connection"];
