//! One thread of the load: its callers, the door they pass, and the time that it costs.
//!
//! A [`Post`] in; requests and faults go into its tally, and [`Ended`] says how it was left. The
//! thread runs its callers side by side and blocks for none of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, sleep_until, timeout};

use super::exchange::Caller;
use super::held;
use super::push::prepare;
use super::scenario::{Hand, Stage};
use super::schedule::{Arrivals, Door};
use super::tally::{Fault, Tally, Window};
use crate::memory::Pages;
use crate::plan::{Plan, Scenario};

/// What one thread is to do.
pub(crate) struct Post {
    /// Which thread, from 0.
    pub(crate) number: usize,
    /// What all threads share.
    pub(crate) stage: Arc<Stage>,
    /// Where this one counts.
    pub(crate) tally: Arc<Tally>,
    /// When it counts.
    pub(crate) window: Window,
    /// What is left to do, where that is bounded.
    pub(crate) budget: Arc<Budget>,
}

/// How a thread was left.
#[derive(Default)]
pub(crate) struct Ended {
    /// Its processor time within the window, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Held connections that were there at the end.
    pub(crate) survived: u64,
}

/// What may still be begun, by all threads together.
pub(crate) struct Budget {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Budget {
    /// The budget of `plan`.
    pub(crate) fn of(plan: &Plan) -> Self {
        let bound = |most: Option<u64>| AtomicU64::new(most.unwrap_or(u64::MAX));
        Self { requests: bound(plan.requests), bytes: bound(plan.bytes) }
    }

    /// Whether nothing more may be begun.
    pub(crate) fn is_spent(&self) -> bool {
        let none = |left: &AtomicU64| left.load(Ordering::Relaxed) == 0;
        none(&self.requests) || none(&self.bytes)
    }

    /// Takes one request of so many bytes; false when there is none left. The last may take more
    /// bytes than are left, so that at least what was asked for is moved.
    fn take(&self, bytes: u64) -> bool {
        let spend = |left: &AtomicU64, count: u64| {
            let less = |left: u64| match left {
                0 => None,
                u64::MAX => Some(left),
                _ => Some(left.saturating_sub(count)),
            };
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
        };
        spend(&self.requests, 1) && spend(&self.bytes, bytes.max(1))
    }
}

/// What the callers of one thread share.
struct Crew {
    post: Post,
    door: Door,
    dialling: Semaphore,
    in_flight: Cell<u64>,
    survived: Cell<u64>,
    cpu: Cell<(Option<f64>, Option<f64>)>,
}

/// Runs the post's callers to the end of the plan, or until `stop`.
///
/// # Errors
/// When the thread cannot have what it needs: a runtime, a timer, its processor.
pub(crate) fn run(post: Post, stop: &AtomicBool) -> anyhow::Result<Ended> {
    bind(&post)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work(post, stop))
}

/// Uploads what is to be pulled, unless stopped; the fault that ended it, if any.
///
/// # Errors
/// When there is no runtime to be had.
pub(crate) fn upload(
    stage: &Stage,
    tally: &Arc<Tally>,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Fault>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let scratch = Rc::new(RefCell::new(Pages::new(SCRATCH_BYTES)));
    let mut caller = Caller::new(Arc::clone(&stage.endpoint), Arc::clone(tally), scratch);
    runtime.block_on(async {
        tokio::select! {
            prepared = prepare(&mut caller, stage) => Ok(prepared.err()),
            () = stopped(stop) => Ok(None),
        }
    })
}

async fn work(post: Post, stop: &AtomicBool) -> anyhow::Result<Ended> {
    let plan = &post.stage.plan;
    let (number, window) = (post.number, post.window);
    let scratch = Rc::new(RefCell::new(Pages::new(SCRATCH_BYTES)));
    let hands: Vec<_> = (number..plan.concurrency)
        .step_by(plan.cores)
        .map(|place| Hand::new(&post.stage, &post.tally, &scratch, place as u64))
        .collect();
    let patience = window.end.map(|end| end + plan.timeout + GRACE);
    let door = Door::new(arrivals(&post))?;
    let crew = Rc::new(Crew {
        post,
        door,
        dialling: Semaphore::new(DIALLING_MAX),
        in_flight: Cell::new(0),
        survived: Cell::new(0),
        cpu: Cell::new((None, None)),
    });
    let local = LocalSet::new();
    let all = local.run_until(async {
        tokio::task::spawn_local(clock(Rc::clone(&crew)));
        let mut working = JoinSet::new();
        for hand in hands {
            working.spawn_local(call(Rc::clone(&crew), hand));
        }
        while working.join_next().await.is_some() {}
    });
    let interrupted = tokio::select! {
        () = all => false,
        () = stopped(stop) => true,
        () = until(patience) => false,
    };
    let cut = crew.in_flight.get();
    // Whatever is under way ends here, with its connections.
    drop(local);
    let crew = Rc::into_inner(crew).ok_or_else(|| anyhow::anyhow!("a caller outlived its crew"))?;
    let cpu = match crew.cpu.get() {
        (Some(before), after) => after.unwrap_or_else(cpu_seconds) - before,
        _ => 0.0,
    };
    if !interrupted {
        let tally = &crew.post.tally;
        let unfinished = Fault::new("unfinished", "still under way when patience ended");
        tally.failed(unfinished, cut);
        let late = Fault::new("never started", "no caller was free for it before the end");
        tally.failed(late, crew.door.left(window.end));
    }
    Ok(Ended { cpu_seconds: cpu, survived: crew.survived.get() })
}

/// This thread's share of the arrivals. Threads take turns, so constant arrivals stay even.
fn arrivals(post: &Post) -> Option<Arrivals> {
    let plan = &post.stage.plan;
    let cores = plan.cores.min(plan.concurrency);
    let rate = plan.rate?;
    let start = post.window.start.checked_sub(plan.warm_up).unwrap_or(post.window.start);
    let offset = Duration::try_from_secs_f64(post.number as f64 / rate).unwrap_or_default();
    let seed = plan.seed.wrapping_add(1 + post.number as u64);
    let own = (post.number < cores).then_some(rate / cores as f64)?;
    Some(Arrivals::new(start + offset, own, plan.arrivals, seed))
}

/// Takes the thread's processor time as the window opens and closes.
async fn clock(crew: Rc<Crew>) {
    let window = crew.post.window;
    sleep_until(window.start.into()).await;
    let before = cpu_seconds();
    crew.cpu.set((Some(before), None));
    if let Some(end) = window.end {
        sleep_until(end.into()).await;
        crew.cpu.set((Some(before), Some(cpu_seconds())));
    }
}

async fn call(crew: Rc<Crew>, mut hand: Hand) {
    let Post { stage, tally, window, budget, .. } = &crew.post;
    if let (Scenario::Idle | Scenario::SlowReaders, Some(end)) = (stage.plan.scenario, window.end) {
        return hold(&crew, hand, end).await;
    }
    let last = window.end.map(|end| end + GRACE);
    loop {
        let passed = crew.door.pass(window.end, last, || budget.is_spent(), tally).await;
        let at = match passed {
            Ok(Some(at)) => at,
            Ok(None) => return,
            Err(cause) => return tally.failed(cause.into(), 1),
        };
        let deed = hand.choose();
        if at >= window.start && !budget.take(stage.bytes_of(deed)) {
            return;
        }
        crew.in_flight.update(|count| count + 1);
        let ended = match timeout(stage.plan.timeout, hand.act(deed)).await {
            Ok(ended) => ended,
            Err(_) => {
                hand.give_up();
                let said = format!("{deed:?} took longer than {:?}", stage.plan.timeout);
                Err(Fault::new("timed out", said))
            }
        };
        crew.in_flight.update(|count| count - 1);
        let failed = ended.is_err();
        tally.ended(at, ended);
        if failed && stage.plan.rate.is_none() {
            sleep(PAUSE).await;
        }
    }
}

async fn hold(crew: &Crew, mut hand: Hand, end: Instant) {
    let Post { stage, tally, .. } = &crew.post;
    if let (Ok(_permit), Some(caller)) = (crew.dialling.acquire().await, hand.caller()) {
        if Instant::now() >= end {
            let said = "its turn did not come before the end: give --duration more";
            return tally.failed(Fault::new("never opened", said), 1);
        }
        let window = (stage.plan.scenario == Scenario::SlowReaders).then_some(held::WINDOW_BYTES);
        let dialled = timeout(stage.plan.timeout, caller.connect(window)).await;
        let late = || Err(Fault::new("timed out", "no connection in time"));
        if let Err(fault) = dialled.unwrap_or_else(|_| late()) {
            return tally.failed(fault, 1);
        }
    }
    crew.in_flight.update(|count| count + 1);
    let held = match stage.plan.scenario {
        Scenario::Idle => held::idle(&mut hand, tally, end).await,
        _ => held::slow(&mut hand, stage, tally, end).await,
    };
    crew.in_flight.update(|count| count - 1);
    match held {
        Ok(()) => crew.survived.update(|count| count + 1),
        Err(fault) => tally.failed(fault, 1),
    }
}

async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        sleep(LOOK_AGAIN).await;
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn bind(post: &Post) -> anyhow::Result<()> {
    let pin = &post.stage.plan.pin;
    let place = post.number.checked_rem(pin.len());
    if let Some(cpu) = place.and_then(|place| pin.get(place)) {
        anyhow::ensure!(*cpu < CpuSet::MAX_CPU, "pin: there is no processor {cpu}");
        let mut set = CpuSet::new();
        set.set(*cpu);
        sched_setaffinity(None, &set)?;
    }
    Ok(())
}

/// What the callers of a thread read into, in turns: a piece as large as a socket's buffer gives.
const SCRATCH_BYTES: usize = 1 << 20;
/// Connections that one thread opens at once, so that thousands do not overrun a listener.
const DIALLING_MAX: usize = 64;
/// What was due by the end may begin so much later: nobody is always on time to the microsecond.
const GRACE: Duration = Duration::from_secs(1);
/// Between a failure and the next attempt of a closed loop, lest it spin.
const PAUSE: Duration = Duration::from_millis(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_what_it_has_and_the_last_may_overdraw() {
        let plan = Plan { bytes: Some(250), ..Plan::for_target("http://x") };
        let budget = Budget::of(&plan);
        assert!(budget.take(100) && budget.take(100) && budget.take(100));
        assert!(budget.is_spent() && !budget.take(1));
        let endless = Budget::of(&Plan::for_target("http://x"));
        assert!((0..1000).all(|_| endless.take(u64::MAX - 1)));
    }
}
