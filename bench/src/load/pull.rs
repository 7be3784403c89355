//! What is pulled: a manifest, a blob, a whole image.
//!
//! A [`Caller`] and the [`Stage`] in; nothing, or a [`Fault`], out. Lengths and stated digests are
//! checked each time, the bytes themselves as often as the plan says.

use super::answer::Answer;
use super::content::Blob;
use super::exchange::{Ask, Caller, Take};
use super::scenario::Stage;
use super::tally::Fault;

/// How a manifest is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// GET with another credential.
    Churn,
}

/// Looks at the manifest of the image that there is to pull.
///
/// # Errors
/// When the answer is not what it should be.
pub(crate) async fn get(caller: &mut Caller, stage: &Stage, look: Look) -> Result<(), Fault> {
    let path = format!("{}/manifests/load-{}", stage.endpoint.repository, stage.plan.seed);
    let method = if look == Look::Head { "HEAD" } else { "GET" };
    let churned = (look == Look::Churn).then(|| stage.another());
    let ask = stage.ask(method, &path);
    let authorization = churned.as_deref().or(ask.authorization);
    let ask = Ask { authorization, take: Take::Hash, ..ask };
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&ask.named()))?;
    if look == Look::Churn && stage.plan.accept_401 && answer.status == 401 {
        return Ok(());
    }
    answer.demand(&ask, 200)?;
    let length = stage.image.manifest.len() as u64;
    whole(&ask, &answer, &stage.image.digest, length)
}

/// Pulls the layer of this turn.
///
/// # Errors
/// As [`get`].
pub(crate) async fn pull(caller: &mut Caller, stage: &Stage, turn: u64) -> Result<(), Fault> {
    let Some(blob) = stage.layer(turn) else {
        return Ok(());
    };
    pull_blob(caller, stage, blob).await
}

/// Pulls the manifest and all layers.
///
/// # Errors
/// As [`get`].
pub(crate) async fn pull_image(caller: &mut Caller, stage: &Stage) -> Result<(), Fault> {
    get(caller, stage, Look::Get).await?;
    for blob in &stage.image.layers {
        pull_blob(caller, stage, blob).await?;
    }
    Ok(())
}

async fn pull_blob(caller: &mut Caller, stage: &Stage, blob: &Blob) -> Result<(), Fault> {
    let path = stage.blob_path(blob);
    let take = if stage.verifies(blob) { Take::Hash } else { Take::Count };
    let ask = Ask { take, ..stage.ask("GET", &path) };
    let answer = caller.ask(&ask).await.map_err(|fault| fault.during(&ask.named()))?;
    answer.demand(&ask, 200)?;
    whole(&ask, &answer, &blob.digest, blob.length)
}

/// Checks that all of it came, and unchanged as far as that was looked at.
fn whole(ask: &Ask<'_>, answer: &Answer, digest: &str, length: u64) -> Result<(), Fault> {
    if answer.length != length {
        let said = format!("{}: {} bytes of {length}", ask.named(), answer.length);
        return Err(Fault::new("wrong length", said));
    }
    for theirs in [&answer.hashed, &answer.digest].into_iter().flatten() {
        if theirs != digest {
            let said = format!("{}: came as {theirs}", ask.named());
            return Err(Fault::new("wrong digest", said));
        }
    }
    Ok(())
}
