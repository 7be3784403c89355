//! What one caller of the load does: each scenario as requests to be sent and answers to be checked.
//!
//! A [`Stage`] that everybody shares goes in; a [`Hand`] does one thing after the other, and each
//! ends well or in a [`Fault`]. Statuses, digests, lengths and Locations are checked every time.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::content::{Blob, Content, Image, MANIFEST_KIND, Piece};
use super::exchange::{Answer, Ask, Caller, Take};
use super::line::Scratch;
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

    fn fresh(&self, count: usize) -> u64 {
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
            // Callers that begin together do not all begin with the same layer or check.
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
            (Deed::PullImage, [caller, ..]) => pull_image(caller, &stage, turn).await,
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

/// Uploads what is to be pulled, unless it is there already.
///
/// # Errors
/// When the target does not take it.
pub(crate) async fn prepare(caller: &mut Caller, stage: &Stage) -> Result<(), Fault> {
    for blob in &stage.image.layers {
        let path = stage.blob_path(blob);
        let answer = caller.ask(&stage.ask("HEAD", &path)).await?;
        if answer.status != 200 {
            push(caller, stage, blob, false).await?;
        }
    }
    push_rest(caller, stage, &stage.image, &format!("load-{}", stage.plan.seed)).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Get,
    Head,
    Churn,
}

async fn get(caller: &mut Caller, stage: &Stage, look: Look) -> Result<(), Fault> {
    let path = format!("{}/manifests/load-{}", stage.endpoint.repository, stage.plan.seed);
    let method = if look == Look::Head { "HEAD" } else { "GET" };
    let churned = (look == Look::Churn).then(|| stage.another());
    let ask = stage.ask(method, &path);
    let authorization = churned.as_deref().or(ask.authorization);
    let ask = Ask { authorization, take: Take::Hash, ..ask };
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&named(&ask)))?;
    if look == Look::Churn && stage.plan.accept_401 && answer.status == 401 {
        return Ok(());
    }
    expect(&ask, &answer, 200)?;
    let length = stage.image.manifest.len() as u64;
    whole(&ask, &answer, &stage.image.digest, length)
}

async fn pull(caller: &mut Caller, stage: &Stage, turn: u64) -> Result<(), Fault> {
    let Some(blob) = stage.layer(turn) else {
        return Ok(());
    };
    pull_blob(caller, stage, blob, turn).await
}

async fn pull_image(caller: &mut Caller, stage: &Stage, turn: u64) -> Result<(), Fault> {
    get(caller, stage, Look::Get).await?;
    for (number, blob) in (turn..).zip(&stage.image.layers) {
        pull_blob(caller, stage, blob, number).await?;
    }
    Ok(())
}

async fn pull_blob(
    caller: &mut Caller,
    stage: &Stage,
    blob: &Blob,
    turn: u64,
) -> Result<(), Fault> {
    let path = stage.blob_path(blob);
    let every = stage.plan.verify_every;
    let every = every.unwrap_or_else(|| stage.plan.scenario.verify_every(blob.length));
    let take = if every > 0 && turn.is_multiple_of(every) { Take::Hash } else { Take::Count };
    let ask = Ask { take, ..stage.ask("GET", &path) };
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&named(&ask)))?;
    expect(&ask, &answer, 200)?;
    whole(&ask, &answer, &blob.digest, blob.length)
}

async fn push(caller: &mut Caller, stage: &Stage, blob: &Blob, chunked: bool) -> Result<(), Fault> {
    let content = &stage.content;
    if !chunked {
        return upload(caller, stage, &blob.digest, content.plain(blob)).await;
    }
    let location = open(caller, stage).await?;
    let ask = Ask {
        kind: Some(OCTETS),
        pieces: content.chunked(blob),
        chunked: true,
        ..stage.ask("PATCH", &location)
    };
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&named(&ask)))?;
    expect(&ask, &answer, 202)?;
    let location = stage.follow(&ask, &answer)?;
    close(caller, stage, &location, &blob.digest, Vec::new()).await
}

/// POST, and PUT with the whole of it: what containerd, BuildKit and skopeo send.
async fn upload(
    caller: &mut Caller,
    stage: &Stage,
    digest: &str,
    pieces: Vec<Piece<'_>>,
) -> Result<(), Fault> {
    let location = open(caller, stage).await?;
    close(caller, stage, &location, digest, pieces).await
}

async fn open(caller: &mut Caller, stage: &Stage) -> Result<String, Fault> {
    let path = format!("{}/blobs/uploads/", stage.endpoint.repository);
    let ask = stage.ask("POST", &path);
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&named(&ask)))?;
    expect(&ask, &answer, 202)?;
    stage.follow(&ask, &answer)
}

async fn close(
    caller: &mut Caller,
    stage: &Stage,
    location: &str,
    digest: &str,
    pieces: Vec<Piece<'_>>,
) -> Result<(), Fault> {
    let joint = if location.contains('?') { '&' } else { '?' };
    let path = format!("{location}{joint}digest={}", digest.replace(':', "%3A"));
    let ask = Ask { kind: Some(OCTETS), pieces, ..stage.ask("PUT", &path) };
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&named(&ask)))?;
    taken(stage, &ask, &answer, digest)
}

async fn push_image(callers: &mut [Caller], stage: &Stage) -> Result<(), Fault> {
    let first = stage.fresh(stage.plan.layers);
    let image = stage.content.image(first, stage.plan.layers);
    if let [caller] = callers {
        for blob in &image.layers {
            push(caller, stage, blob, false).await?;
        }
    } else {
        let pushes = callers.iter_mut().zip(&image.layers);
        let pushes = pushes.map(|(caller, blob)| {
            Box::pin(push(caller, stage, blob, false)) as Pin<Box<dyn Future<Output = _> + '_>>
        });
        together(pushes.collect()).await?;
    }
    let Some(caller) = callers.first_mut() else {
        return Ok(());
    };
    let tag = format!("push-{}-{}", stage.plan.seed, first % TAGS);
    push_rest(caller, stage, &image, &tag).await
}

/// Pushes what an image has besides its layers: the config, then the manifest.
async fn push_rest(
    caller: &mut Caller,
    stage: &Stage,
    image: &Image,
    tag: &str,
) -> Result<(), Fault> {
    let config = vec![Piece::Bytes(image.config.clone())];
    upload(caller, stage, &image.config_digest, config).await?;
    let path = format!("{}/manifests/{tag}", stage.endpoint.repository);
    let pieces = vec![Piece::Bytes(image.manifest.clone())];
    let ask = Ask { kind: Some(MANIFEST_KIND), pieces, ..stage.ask("PUT", &path) };
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&named(&ask)))?;
    taken(stage, &ask, &answer, &image.digest)
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

    /// Where a blob is pulled from.
    pub(crate) fn blob_path(&self, blob: &Blob) -> String {
        format!("{}/blobs/{}", self.endpoint.repository, blob.digest)
    }

    /// A credential that was not used before, or the next of those given.
    fn another(&self) -> String {
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
    fn follow(&self, ask: &Ask<'_>, answer: &Answer) -> Result<String, Fault> {
        let fault = |said: &str| Fault::new("wrong location", format!("{}: {said}", named(ask)));
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

/// Checks the answer to something that was pushed.
fn taken(stage: &Stage, ask: &Ask<'_>, answer: &Answer, digest: &str) -> Result<(), Fault> {
    expect(ask, answer, 201)?;
    stage.follow(ask, answer)?;
    match answer.digest.as_deref() {
        Some(theirs) if theirs == digest => Ok(()),
        Some(theirs) => {
            let said = format!("{}: sent {digest}, taken for {theirs}", named(ask));
            Err(Fault::new("wrong digest", said))
        }
        None => {
            let said = format!("{}: no Docker-Content-Digest in the answer", named(ask));
            Err(Fault::new("no digest", said))
        }
    }
}

/// Checks that all of it came, and unchanged as far as that was looked at.
fn whole(ask: &Ask<'_>, answer: &Answer, digest: &str, length: u64) -> Result<(), Fault> {
    if answer.length != length {
        let said = format!("{}: {} bytes of {length}", named(ask), answer.length);
        return Err(Fault::new("wrong length", said));
    }
    for theirs in [&answer.hashed, &answer.digest].into_iter().flatten() {
        if theirs != digest {
            let said = format!("{}: came as {theirs}", named(ask));
            return Err(Fault::new("wrong digest", said));
        }
    }
    Ok(())
}

fn expect(ask: &Ask<'_>, answer: &Answer, status: u16) -> Result<(), Fault> {
    if answer.status == status {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer.said);
    let line: String = said.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect();
    let cause = format!("status {}", answer.status);
    Err(Fault::new(cause, format!("{}: answered {} {line}", named(ask), answer.status)))
}

/// Method and path. A query is left out: it may hold what opens an upload.
pub(crate) fn named(ask: &Ask<'_>) -> String {
    format!("{} {}", ask.method, ask.path.split('?').next().unwrap_or_default())
}

fn basic(user: &str, password: &str) -> String {
    ["Basic ", &BASE64_STANDARD.encode([user, ":", password].concat())].concat()
}

/// Waits for all, side by side; the first fault if there is any.
async fn together(
    futures: Vec<Pin<Box<dyn Future<Output = Result<(), Fault>> + '_>>>,
) -> Result<(), Fault> {
    let mut futures = futures;
    let mut ended = Ok(());
    std::future::poll_fn(move |wakes| {
        futures.retain_mut(|future| match future.as_mut().poll(wakes) {
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(fault)) => {
                if ended.is_ok() {
                    ended = Err(fault);
                }
                false
            }
            Poll::Pending => true,
        });
        if futures.is_empty() {
            Poll::Ready(std::mem::replace(&mut ended, Ok(())))
        } else {
            Poll::Pending
        }
    })
    .await
}

const OCTETS: &str = "application/octet-stream";
const SAID_MAX: usize = 200;
/// Tags that pushed images share, so that a long run does not fill a registry with them.
const TAGS: u64 = 64;
/// Numbers from here on are blobs that the load pushes; those below are there to be pulled.
const FRESH: u64 = 1 << 32;
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
