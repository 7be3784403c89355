//! Connections that are held: idle ones, and ones that are read slowly.
//!
//! A [`Hand`] in; whether the target kept its connection to the end comes out. The load they make
//! is their number, so their ends are what counts.

use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use super::exchange::Caller;
use super::scenario::{Deed, Hand, Stage};
use super::tally::{Fault, Tally};

/// Asks once, waits until `end` without a word, and asks again on the same connection.
///
/// # Errors
/// When the connection was closed meanwhile, or an answer is not what it should be.
pub(crate) async fn idle(hand: &mut Hand, tally: &Tally, end: Instant) -> Result<(), Fault> {
    let began = Instant::now();
    hand.act(Deed::Get).await?;
    tally.ended(began, Ok(()));
    sleep_until(end.into()).await;
    if !hand.caller().is_some_and(Caller::is_open) {
        return Err(Fault::new("closed while idle", "the target closed an idle connection"));
    }
    hand.act(Deed::Get).await
}

/// Reads blob after blob at the plan's speed until `end`.
///
/// # Errors
/// When a body ends too early, stalls, or an answer is not what it should be.
pub(crate) async fn slow(
    hand: &mut Hand,
    stage: &Stage,
    tally: &Tally,
    end: Instant,
) -> Result<(), Fault> {
    let mut turn = 0;
    while Instant::now() < end {
        let began = Instant::now();
        let Some(caller) = hand.caller() else {
            return Ok(());
        };
        caller.connect(Some(WINDOW_BYTES)).await?;
        if read_slowly(caller, stage, turn, end).await? {
            tally.ended(began, Ok(()));
        }
        turn += 1;
    }
    hand.give_up();
    Ok(())
}

/// Whether the blob was read to its end before `end` came.
async fn read_slowly(
    caller: &mut Caller,
    stage: &Stage,
    turn: u64,
    end: Instant,
) -> Result<bool, Fault> {
    let Some(blob) = stage.layer(turn) else {
        return Ok(false);
    };
    let path = stage.blob_path(blob);
    let ask = stage.ask("GET", &path);
    let during = |fault: Fault| fault.during(&ask.named());
    let answer = caller.begin(&ask).await.map_err(during)?;
    if answer.status != 200 || answer.length != blob.length {
        let said = format!("answered {} with {} bytes", answer.status, answer.length);
        return Err(during(Fault::new(format!("status {}", answer.status), said)));
    }
    let each = (stage.plan.bytes_per_second / TICKS).max(1);
    let (mut left, mut tick) = (blob.length, Instant::now());
    while left > 0 {
        let mut due = each.min(left);
        while due > 0 {
            let Ok(read) = timeout(stage.plan.timeout, caller.some(due)).await else {
                return Err(during(Fault::new("stalled", "no byte came in time")));
            };
            let count = read.map_err(during)? as u64;
            if count == 0 {
                let said = format!("the body ended {left} bytes too early");
                return Err(during(Fault::new("short body", said)));
            }
            due -= count;
            left -= count;
        }
        tick += Duration::from_secs(1) / u32::try_from(TICKS).unwrap_or(1);
        if tick >= end {
            sleep_until(end.into()).await;
            return Ok(false);
        }
        sleep_until(tick.into()).await;
    }
    Ok(true)
}

/// How often in a second a slow reader reads.
const TICKS: u64 = 10;
/// Little enough that a slow reader's kernel does not read ahead for it.
pub(crate) const WINDOW_BYTES: u32 = 16 << 10;
