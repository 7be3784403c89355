//! Where everything meets: news comes in, work goes out, answers come back.
//!
//! Watches and a writer in; it runs until it is told to stop. One task owns all that is known, so
//! nothing is locked; at most [`RUNNING_MAX`] connectors are worked at, each by one task at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};

use super::class;
use super::counts::Counts;
use super::queue::{Outcome, Queue};
use super::reconcile;
use super::warning::Warnings;
use super::world::{Installation, News, Subject, World};
use super::writer::{Failure, Writer, Written, now};
use crate::condition::{FALSE, READY, TRUE};
use crate::crd::Connector;
use crate::source::kube::watch;

/// The desk of the replica that acts.
pub struct Desk {
    world: World,
    queue: Queue<Subject>,
    news: mpsc::Receiver<News>,
    writer: Arc<Writer>,
    tasks: JoinSet<Written>,
    subjects: HashMap<Id, Subject>,
    warnings: Warnings,
    /// All has been listed, and what stood there then is known.
    has_begun: bool,
    counts: Arc<Counts>,
}

impl Desk {
    /// Begins to watch. Must be called inside a runtime.
    pub fn new(client: &Client, installation: Installation, writer: Writer) -> Self {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        tokio::spawn(watch(Api::all(client.clone()), sender.clone(), News::Connector));
        tokio::spawn(watch(Api::all(client.clone()), sender.clone(), News::Class));
        tokio::spawn(watch(Api::all(client.clone()), sender, News::Service));
        Self {
            world: World::new(installation),
            queue: Queue::default(),
            news,
            counts: Arc::clone(&writer.counts),
            writer: Arc::new(writer),
            tasks: JoinSet::new(),
            subjects: HashMap::new(),
            warnings: Warnings::default(),
            has_begun: false,
        }
    }

    /// Works until it is given up, which it may be at any time.
    pub async fn run(&mut self) {
        loop {
            let wakes_at = self.queue.wakes_at();
            let wake = async {
                match wakes_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(news) = self.news.recv() => self.take(news),
                Some(ended) = self.tasks.join_next_with_id() => self.end(ended),
                () = wake => {}
            }
            while let Ok(news) = self.news.try_recv() {
                self.take(news);
            }
            self.queue.wake(Instant::now());
            self.begin();
            self.count();
        }
    }

    /// Waits for the writes that are under way, for `wait` at most.
    pub async fn finish(&mut self, wait: Duration) {
        let rest = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(wait, rest).await.is_err() {
            tracing::warn!("writes under way were not waited for");
            self.tasks.shutdown().await;
        }
    }

    fn take(&mut self, news: News) {
        for subject in self.world.take(news) {
            self.queue.add(subject);
        }
    }

    /// Begins as much work as may be under way; what needs nothing costs nothing.
    fn begin(&mut self) {
        if !self.world.is_listed() {
            return;
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            self.warnings.begin(self.world.connectors.all().map(|(_, connector)| &**connector));
        }
        let now = now();
        while self.queue.running() < RUNNING_MAX
            && let Some(subject) = self.queue.start()
        {
            let writer = Arc::clone(&self.writer);
            let task = match &subject {
                Subject::Connector(key) => {
                    let connector = self.world.connectors.get(key);
                    if connector.is_none() {
                        self.warnings.forget(key);
                    }
                    let work = connector.and_then(|known| {
                        let warning = self.warnings.news(known);
                        reconcile::work(&self.world, known, warning, &now)
                    });
                    work.map(|work| self.tasks.spawn(async move { writer.perform(&work).await }))
                }
                Subject::Class => class::work(&self.world, &now)
                    .map(|work| self.tasks.spawn(async move { writer.perform_class(&work).await })),
            };
            match task {
                Some(task) => {
                    self.subjects.insert(task.id(), subject);
                }
                None => self.queue.finish(subject, Outcome::Done, Instant::now(), 0.0),
            }
        }
    }

    /// Takes what a task has written.
    fn end(&mut self, ended: Result<(Id, Written), JoinError>) {
        let (id, written) = match ended {
            Ok((id, written)) => (id, Some(written)),
            // A defect: its place is in the log, and the subject is tried again.
            Err(cause) => (cause.id(), None),
        };
        let mut outcome = Outcome::Failed;
        if let Some(Written { connector, service, class, failure }) = written {
            outcome = failure.as_ref().map_or(Outcome::Done, Failure::outcome);
            if let Some(connector) = connector {
                self.world.connectors.learn(connector);
            }
            if let Some(service) = service {
                self.world.services.learn(service);
            }
            if let Some(class) = class {
                self.world.classes.learn(class);
            }
        }
        if let Some(subject) = self.subjects.remove(&id) {
            self.queue.finish(subject, outcome, Instant::now(), jitter());
        }
    }

    fn count(&self) {
        self.counts.waiting.store(self.queue.waiting() as u64, Ordering::Relaxed);
        // While there is much to do there is no time for it, and soon another occasion.
        if !self.queue.is_idle() {
            return;
        }
        let mut ready = [0_u64; 3];
        for (_, connector) in self.world.connectors.all() {
            let [holds, fails, open] = &mut ready;
            let place = match readiness(connector) {
                Some(TRUE) => holds,
                Some(FALSE) => fails,
                _ => open,
            };
            *place += 1;
        }
        for (shown, count) in self.counts.ready.iter().zip(ready) {
            shown.store(count, Ordering::Relaxed);
        }
    }
}

fn readiness(connector: &Connector) -> Option<&str> {
    let conditions = &connector.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.kind == READY).map(|ready| ready.status.as_str())
}

/// From 0 to 1: the clock's small digits spread retries well enough.
fn jitter() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    f64::from(now.subsec_micros() % 1000) / 1000.0
}

/// Events under way to us; a list of thousands waits here in turns.
const NEWS_MAX: usize = 1024;

/// Connectors that are worked at at one time. Each is a few requests that mostly wait, on as many
/// connections.
const RUNNING_MAX: usize = 16;
