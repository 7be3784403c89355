//! What one caller of the load does, again and again, by scenario.
//!
//! A [`Stage`] that everybody shares goes in; a [`Hand`] does one thing after the other, and each
//! ends well or in a [`Fault`]. The requests themselves are in `pull.rs` and `push.rs`.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::answer::Answer;
use super::content::{Blob, Content, Image};
use super::exchange::{Ask, Caller};
use super::line::Scratch;
use super::pull::{Look, get, pull, pull_image};
use super::push::{push, push_image};
use super::schedule::draw;
use super::tally::{Fault, Tally};
use super::target::Endpoint;
use crate::memory::Noise;
use crate::plan::{Plan, Scenario};

/// What all threads of a load share.
pub(crate) struct Stage {
    /// The plan.
    pub(crate) plan: Plan,
    /// Where it goes.
    pub(crate) endpoint: Arc<Endpoint>,
    /// What is sent.
    pub(crate) content: Content,
    /// The image that there is to pull.
    pub(crate) image: Image,
    /// `Authorization` of the caller, if any.
    pub(crate) authorization: Option<String>,
    /// The number of the next blob or credential.
    pub(crate) number: AtomicU64,
    /// How many downloads have begun.
    pub(crate) downloads: AtomicU64,
}

/// One caller of the load, with as many connections as it needs.
pub(crate) struct Hand {
    stage: Arc<Stage>,
    callers: Vec<Caller>,
    noise: Noise,
    turn: u64,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// GET the manifest.
    Get,
    /// HEAD the manifest.
    Head,
    /// GET the manifest under another name.
    Churn,
    /// GET one blob.
    Pull,
    /// Push one blob, chunked or not.
    Push { chunked: bool },
    /// GET the manifest and all layers.
    PullImage,
    /// Push all layers, at once or one by one, then config and manifest.
    PushImage { at_once: bool },
}

impl Stage {
    /// The stage for `plan`. Memory for the noise is taken here.
    ///
    /// # Errors
    /// When the target cannot be found or memory runs out.
    pub(crate) fn new(plan: &Plan) -> anyhow::Result<Self> {
        let chunk = (plan.scenario == Scenario::PushChunked).then_some(plan.chunk_bytes);
        let content = Content::make(plan.blob_bytes(), plan.seed, chunk)?;
        let basic = |(user, password): &(String, String)| basic(user, password);
        Ok(Self {
            endpoint: Arc::new(Endpoint::of(plan)?),
            image: content.image(0, plan.layers),
            content,
            authorization: plan.login.as_ref().map(basic),
            number: AtomicU64::new(FRESH),
            downloads: AtomicU64::new(0),
            plan: plan.clone(),
        })
    }

    /// Body bytes that `deed` moves, more or less.
    pub(crate) fn bytes_of(&self, deed: Deed) -> u64 {
        let blob = self.plan.blob_bytes();
        match deed {
            Deed::Get | Deed::Churn => self.image.manifest.len() as u64,
            Deed::Head => 0,
            Deed::Pull | Deed::Push { .. } => blob,
            Deed::PullImage | Deed::PushImage { .. } => blob * self.plan.layers as u64,
        }
    }

    /// The number of the first of so many blobs that were not pushed before.
    pub(crate) fn fresh(&self, count: usize) -> u64 {
        if self.plan.repeat_blobs {
            return FRESH;
        }
        self.number.fetch_add(count as u64, Ordering::Relaxed)
    }
}

impl Hand {
    /// The caller of this number.
    pub(crate) fn new(
        stage: &Arc<Stage>,
        tally: &Arc<Tally>,
        scratch: &Rc<Scratch>,
        number: u64,
    ) -> Self {
        let parallel = stage.plan.scenario == Scenario::ParallelPush;
        let lines = if parallel { stage.plan.layers } else { 1 };
        let caller =
            |_| Caller::new(Arc::clone(&stage.endpoint), Arc::clone(tally), Rc::clone(scratch));
        Self {
            callers: (0..lines).map(caller).collect(),
            noise: Noise::new(stage.plan.seed.wrapping_add(number.wrapping_mul(STRIDE))),
            // Callers that begin together do not all begin with the same layer.
            turn: number,
            stage: Arc::clone(stage),
        }
    }

    /// What to do next.
    pub(crate) fn choose(&mut self) -> Deed {
        match self.stage.plan.scenario {
            Scenario::ManifestGet | Scenario::Idle => Deed::Get,
            Scenario::ManifestHead => Deed::Head,
            Scenario::SmallBlobPull | Scenario::BigBlobPull | Scenario::SlowReaders => Deed::Pull,
            Scenario::Push => Deed::Push { chunked: false },
            Scenario::PushChunked => Deed::Push { chunked: true },
            Scenario::ParallelPush => Deed::PushImage { at_once: true },
            Scenario::TokenChurn => Deed::Churn,
            Scenario::CiDay => {
                let shares = self.stage.plan.shares;
                let all = f64::from(shares.push + shares.pull + shares.head);
                // `draw` may give 1 and never 0: so no share of 0 is ever chosen.
                let drawn = draw(&mut self.noise) * all;
                if drawn <= f64::from(shares.push) {
                    Deed::PushImage { at_once: false }
                } else if drawn <= f64::from(shares.push + shares.pull) {
                    Deed::PullImage
                } else {
                    Deed::Head
                }
            }
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// When an answer is not what it should be; the connection is given up then.
    pub(crate) async fn act(&mut self, deed: Deed) -> Result<(), Fault> {
        self.turn += 1;
        let (stage, turn) = (Arc::clone(&self.stage), self.turn);
        let done = match (deed, self.callers.as_mut_slice()) {
            (Deed::PushImage { .. }, callers) => push_image(callers, &stage).await,
            (_, []) => Ok(()),
            (Deed::Get, [caller, ..]) => get(caller, &stage, Look::Get).await,
            (Deed::Head, [caller, ..]) => get(caller, &stage, Look::Head).await,
            (Deed::Churn, [caller, ..]) => get(caller, &stage, Look::Churn).await,
            (Deed::Pull, [caller, ..]) => pull(caller, &stage, turn).await,
            (Deed::PullImage, [caller, ..]) => pull_image(caller, &stage).await,
            (Deed::Push { chunked }, [caller, ..]) => {
                push(caller, &stage, &stage.content.blob(stage.fresh(1)), chunked).await
            }
        };
        if done.is_err() {
            self.give_up();
        }
        done
    }

    /// The first of its connections.
    pub(crate) fn caller(&mut self) -> Option<&mut Caller> {
        self.callers.first_mut()
    }

    /// Closes all connections: what is under way on them no longer matters.
    pub(crate) fn give_up(&mut self) {
        self.callers.iter_mut().for_each(Caller::close);
    }
}

impl Stage {
    /// A request with the caller's own credential.
    pub(crate) fn ask<'a>(&'a self, method: &'static str, path: &'a str) -> Ask<'a> {
        let authorization = self.authorization.as_deref();
        Ask { method, path, authorization, ..Ask::default() }
    }

    /// The layer to pull in this turn.
    pub(crate) fn layer(&self, turn: u64) -> Option<&Blob> {
        let layers = &self.image.layers;
        let place = turn.checked_rem(layers.len() as u64)?;
        layers.get(usize::try_from(place).ok()?)
    }

    /// Whether the download that begins now is one of those to be hashed. The first always is.
    pub(crate) fn verifies(&self, blob: &Blob) -> bool {
        let every = self.plan.verify_every;
        let every = every.unwrap_or_else(|| self.plan.scenario.verify_every(blob.length));
        every > 0 && self.downloads.fetch_add(1, Ordering::Relaxed).is_multiple_of(every)
    }

    /// Where a blob is pulled from.
    pub(crate) fn blob_path(&self, blob: &Blob) -> String {
        format!("{}/blobs/{}", self.endpoint.repository, blob.digest)
    }

    /// A credential that was not used before, or the next of those given.
    pub(crate) fn another(&self) -> String {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (user, password) = match &self.plan.login {
            Some((user, password)) => (user.as_str(), password.as_str()),
            None => ("bench", "churn"),
        };
        let tokens = &self.plan.tokens;
        let place = number.checked_rem(tokens.len() as u64).map(usize::try_from);
        match place.and_then(|place| tokens.get(place.ok()?)) {
            Some(token) => basic(user, token),
            None => basic(user, &format!("{password}-{number}")),
        }
    }

    /// The path of an answer's `Location`, which must not lead away from the repository.
    ///
    /// # Errors
    /// When there is none, or it does.
    pub(crate) fn follow(&self, ask: &Ask<'_>, answer: &Answer) -> Result<String, Fault> {
        let fault = |said: &str| Fault::new("wrong location", format!("{}: {said}", ask.named()));
        let Some(location) = &answer.location else {
            return Err(fault("an upload without a Location"));
        };
        let path = location.strip_prefix(&self.endpoint.origin).unwrap_or(location);
        if !path.starts_with(&self.endpoint.repository) {
            let shown = location.split('?').next().unwrap_or_default();
            return Err(fault(&format!("the upload's Location leads away, to {shown}")));
        }
        Ok(path.to_owned())
    }
}

fn basic(user: &str, password: &str) -> String {
    ["Basic ", &BASE64_STANDARD.encode([user, ":", password].concat())].concat()
}

/// Numbers from here on are blobs that the load pushes; those below are there to be pulled.
const FRESH: u64 = 1 << 32;
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
