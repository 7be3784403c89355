//! Looks at every connector's registry and credential, and writes what it finds into its status.
//!
//! A Lease decides which proxy of the fleet does so; the others only wait for their turn. Facts of
//! the source in; requests to registries and writes to the API server out, a bounded number at one
//! time. The credentials are those that the proxy has anyway, tried through [`login::Desk`], which
//! knows what requests have found out already. Nothing here is needed to serve callers, and nothing
//! that fails here ends the process.

pub mod facts;
pub mod findings;
pub mod plan;
pub mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dataplane::counters::Counter;
use kube::Client;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep_until, timeout};

use self::facts::{Fact, Facts, Place};
use self::findings::{Login, PING, Pulse};
use self::plan::{Plan, Turn, Work};
use self::report::{Reported, Reporter};
use crate::lease::{Election, Tenure};
use crate::login;
use crate::registry::{Ask, Dialer, Failure, whole};

/// What is counted here.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Whether this process is the one that looks.
    pub is_elected: AtomicBool,
    /// Registries pinged.
    pub pings: Counter,
    /// Connectors looked at.
    pub looks: Counter,
    /// Statuses written.
    pub writes: Counter,
    /// Statuses that could not be written.
    pub failures: Counter,
}

/// When it is looked, and who takes part.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Each connector is looked at once in this time.
    pub period: Duration,
    /// For how long the Lease is held that is not renewed.
    pub lease: Duration,
    /// The namespace of the Lease.
    pub namespace: String,
    /// A name that no other process has.
    pub identity: String,
}

/// Everything that looking needs.
pub struct Prober {
    /// The API server.
    pub client: Client,
    /// What the source knows.
    pub facts: watch::Receiver<Arc<Facts>>,
    /// Where credentials are tried.
    pub desk: Arc<login::Desk>,
    /// How registries are reached.
    pub dialer: Arc<Dialer>,
    /// When and who.
    pub rules: Rules,
    /// What is counted.
    pub numbers: Arc<Numbers>,
}

/// A prober that runs.
pub struct Probing {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    numbers: Arc<Numbers>,
}

impl Probing {
    /// Starts `prober` on the runtime it is called in.
    pub fn start(prober: Prober) -> Self {
        let (stop, stopped) = oneshot::channel();
        let numbers = Arc::clone(&prober.numbers);
        Self { stop, task: tokio::spawn(prober.run(stopped)), numbers }
    }

    /// The counts.
    pub fn numbers(&self) -> Arc<Numbers> {
        Arc::clone(&self.numbers)
    }

    /// Stops, and gives the Lease up so that another need not wait for its end.
    pub async fn end(self) {
        let _ = self.stop.send(());
        if timeout(END_WAIT, self.task).await.is_err() {
            tracing::warn!("the Lease of the probes was not given up in time");
        }
    }
}

impl Prober {
    /// Takes part in the election until it is told to stop.
    async fn run(self, mut stopped: oneshot::Receiver<()>) {
        let prober = Arc::new(self);
        loop {
            let Rules { lease, namespace, identity, .. } = prober.rules.clone();
            let election = Election::new(prober.client.clone(), &namespace, LEASE, identity, lease);
            let mut held = tokio::select! {
                held = election.hold(|| {}) => held,
                _ = &mut stopped => return,
            };
            prober.numbers.is_elected.store(true, Ordering::Relaxed);
            let tenure = held.tenure();
            let is_over = tokio::select! {
                () = Arc::clone(&prober).act(tenure) => false,
                () = held.lost() => false,
                _ = &mut stopped => true,
            };
            prober.numbers.is_elected.store(false, Ordering::Relaxed);
            if prober.facts.has_changed().is_err() {
                // The source is gone, and the process with it.
                return;
            }
            if !is_over {
                tracing::warn!("the Lease of the probes was lost: another proxy looks now");
                continue;
            }
            if let Err(cause) = held.release().await {
                tracing::warn!(%cause, "the Lease of the probes could not be given up");
            }
            return;
        }
    }

    /// Looks, for as long as it is waited for.
    async fn act(self: Arc<Self>, tenure: Tenure) {
        let (reporter, following) = Reporter::new(self.client.clone(), tenure);
        let reporter = Arc::new(reporter);
        tokio::select! {
            () = following => {}
            () = self.look(reporter) => {}
        }
    }

    async fn look(self: &Arc<Self>, reporter: Arc<Reporter>) {
        reporter.is_ready().await;
        let mut facts = self.facts.clone();
        let mut plan = Plan::new(self.rules.period);
        let mut tasks = JoinSet::new();
        loop {
            let newest = Arc::clone(&facts.borrow_and_update());
            plan.take(&newest, Instant::now(), |fact| reporter.is_told(fact));
            reporter.keep(&newest);
            drop(newest);
            // Until something else is known.
            loop {
                while let Some(work) = plan.next(Instant::now()) {
                    let (prober, reporter) = (Arc::clone(self), Arc::clone(&reporter));
                    tasks.spawn(async move { prober.work(&reporter, work).await });
                }
                let wakes_at = plan.wakes_at().unwrap_or_else(|| Instant::now() + IDLE);
                tokio::select! {
                    changed = facts.changed() => match changed {
                        Ok(()) => break,
                        // The source has ended, and the process is about to.
                        Err(_) => return,
                    },
                    Some(done) = tasks.join_next() => settle(&mut plan, done),
                    () = sleep_until(wakes_at.into()) => {}
                }
            }
        }
    }

    async fn work(&self, reporter: &Reporter, work: Work) -> Done {
        match work {
            Work::Ping(place, fact) => {
                self.numbers.pings.add(1);
                let broken = Pulse::Silent(Failure::Malformed);
                Done::Pinged(place, whole(self.ping(&fact), broken).await)
            }
            Work::Look(turn) => {
                self.numbers.looks.add(1);
                let broken = Some(self.rules.period);
                let retry = whole(self.look_at(reporter, &turn), broken).await;
                Done::Looked(turn, retry)
            }
        }
    }

    /// Asks a registry whether it is alive.
    async fn ping(&self, fact: &Fact) -> Pulse {
        let Some(connector) = fact.registry() else { return Pulse::Alive };
        let target = format!("{}{PING}", connector.base_path);
        let ask = Ask {
            origin: &connector.origin,
            trust: &connector.trust,
            target: &target,
            authorization: None,
            purpose: "ping",
        };
        match self.dialer.get(&ask).await {
            Ok(reply) if reply.status == 200 => Pulse::Alive,
            Ok(reply) => Pulse::Status(reply.status),
            Err(failure) => Pulse::Silent(failure),
        }
    }

    /// Looks at one connector and reports it. When to try again, where that failed.
    async fn look_at(&self, reporter: &Reporter, turn: &Turn) -> Option<Duration> {
        let (fact, pulse) = (&turn.fact, turn.pulse.as_ref());
        let login = match fact.registry().filter(|_| findings::wants_login(fact, pulse)) {
            None => Login::Unasked,
            Some(connector) => {
                let checking = self.desk.check(connector, self.rules.period / 2);
                match timeout(LOGIN_WAIT, checking).await {
                    Ok(Some(checked)) => Login::Checked(checked),
                    // The snapshot has it otherwise, and the facts are about to.
                    Ok(None) => return Some(RETRY),
                    Err(_) => Login::Late,
                }
            }
        };
        let findings = findings::findings(fact, pulse, &login);
        match timeout(WRITE_WAIT, reporter.report(fact, &findings)).await {
            Ok(Ok(Reported::Written)) => self.numbers.writes.add(1),
            Ok(Ok(Reported::Same)) => {}
            Ok(Ok(Reported::Gone)) => return Some(RETRY),
            failed => {
                self.numbers.failures.add(1);
                let cause = match failed {
                    Ok(Err(cause)) => cause.to_string(),
                    _ => "no answer in time".to_owned(),
                };
                let (namespace, name) = (&fact.named.namespace, &fact.named.name);
                tracing::warn!(%namespace, %name, cause, "a status could not be written");
                return Some(RETRY);
            }
        }
        None
    }
}

/// What has come to its end.
enum Done {
    Pinged(Place, Pulse),
    Looked(Turn, Option<Duration>),
}

fn settle(plan: &mut Plan, done: Result<Done, tokio::task::JoinError>) {
    match done {
        Ok(Done::Pinged(place, pulse)) => plan.pinged(place, pulse, Instant::now()),
        Ok(Done::Looked(turn, retry)) => {
            let mut jitter = [0];
            // Without randomness all pauses are of one length, and that is all.
            let _ = SystemRandom::new().fill(&mut jitter);
            let [jitter] = jitter;
            plan.done(&turn, Instant::now(), retry, jitter);
        }
        // Panics are caught where they happen, and nobody aborts these tasks.
        Err(cause) => tracing::error!(%cause, "a look broke off"),
    }
}

/// The Lease that decides which proxy looks.
pub const LEASE: &str = "harbor-connector-prober";

/// A second probe after Harbor's lock of 1.5 s, each held back as long, and a token service.
const LOGIN_WAIT: Duration = Duration::from_secs(30);

/// How long a write to the API server may take.
const WRITE_WAIT: Duration = Duration::from_secs(10);

/// After which time a status is tried again that could not be written.
const RETRY: Duration = Duration::from_secs(5);

/// How long to sleep where there is no connector.
const IDLE: Duration = Duration::from_secs(3600);

/// How long the process waits for the Lease to be given up when it ends.
const END_WAIT: Duration = Duration::from_secs(2);
