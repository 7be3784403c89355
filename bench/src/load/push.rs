//! What is pushed: a blob, a whole image, and what must be there to be pulled.
//!
//! A [`Caller`] and the [`Stage`] in; nothing, or a [`Fault`], out. Each answer's status, Location
//! and digest are checked. Source: OCI distribution 1.1 "Pushing blobs", "Pushing manifests".

use std::pin::Pin;
use std::task::Poll;

use super::answer::Answer;
use super::content::{Blob, Image, MANIFEST_KIND, Piece};
use super::exchange::{Ask, Caller};
use super::scenario::Stage;
use super::tally::Fault;

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

/// Pushes one blob, chunked or with its length.
///
/// # Errors
/// When an answer is not what it should be.
pub(crate) async fn push(
    caller: &mut Caller,
    stage: &Stage,
    blob: &Blob,
    chunked: bool,
) -> Result<(), Fault> {
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
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&ask.named()))?;
    answer.demand(&ask, 202)?;
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
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&ask.named()))?;
    answer.demand(&ask, 202)?;
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
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&ask.named()))?;
    taken(stage, &ask, &answer, digest)
}

/// Pushes an image over as many connections as there are callers.
///
/// # Errors
/// As [`push`].
pub(crate) async fn push_image(callers: &mut [Caller], stage: &Stage) -> Result<(), Fault> {
    let first = stage.fresh(stage.plan.layers);
    let image = stage.content.image(first, stage.plan.layers);
    if let [caller] = callers {
        for blob in &image.layers {
            push(caller, stage, blob, false).await?;
        }
    } else {
        let pushes = callers.iter_mut().zip(&image.layers);
        let pushes =
            pushes.map(|(caller, blob)| Box::pin(push(caller, stage, blob, false)) as Pushing<'_>);
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
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&ask.named()))?;
    taken(stage, &ask, &answer, &image.digest)
}

/// Checks the answer to something that was pushed.
fn taken(stage: &Stage, ask: &Ask<'_>, answer: &Answer, digest: &str) -> Result<(), Fault> {
    answer.demand(ask, 201)?;
    stage.follow(ask, answer)?;
    match answer.digest.as_deref() {
        Some(theirs) if theirs == digest => Ok(()),
        Some(theirs) => {
            let said = format!("{}: sent {digest}, taken for {theirs}", ask.named());
            Err(Fault::new("wrong digest", said))
        }
        None => {
            let said = format!("{}: no Docker-Content-Digest in the answer", ask.named());
            Err(Fault::new("no digest", said))
        }
    }
}

/// A push that is under way.
type Pushing<'a> = Pin<Box<dyn Future<Output = Result<(), Fault>> + 'a>>;

/// Waits for all, side by side; the first fault if there is any.
async fn together(mut futures: Vec<Pushing<'_>>) -> Result<(), Fault> {
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
/// Tags that pushed images share, so that a long run does not fill a registry with them.
const TAGS: u64 = 64;
