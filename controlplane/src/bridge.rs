//! Carries the data plane's questions to whoever reviews them: crossbeam on one side, the review
//! on the other, and no other such place.
//!
//! Questions in, each answered exactly once. The table under `--file` answers from memory, so one
//! thread suffices and nothing waits.

use std::io;
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender, bounded};
use dataplane::{LoginQuestion, Question};

use crate::login::Desk;
use crate::review::file::Table;

/// The newest table, replaced whole.
pub type SharedTable = Arc<ArcSwap<Table>>;

/// The channel for questions: the data plane gets the sending end, [`answer`] the other.
pub fn channel() -> (Sender<Question>, Receiver<Question>) {
    bounded(QUESTIONS_MAX)
}

/// Answers questions from the newest table, on a thread of its own, until the data plane is gone.
pub fn answer(questions: Receiver<Question>, table: SharedTable) -> io::Result<()> {
    let name = thread::Builder::new().name("review".to_owned());
    name.spawn(move || {
        for question in questions {
            let verdict = table.load().verdict(&question.token, question.connector.as_ref());
            question.answer(verdict);
        }
    })?;
    Ok(())
}

/// The channel for questions about logins at registries.
pub fn login_channel() -> (Sender<LoginQuestion>, Receiver<LoginQuestion>) {
    bounded(QUESTIONS_MAX)
}

/// Hands those questions to the desk, which answers by itself, until the data plane is gone.
pub fn answer_logins(questions: Receiver<LoginQuestion>, desk: Arc<Desk>) -> io::Result<()> {
    let name = thread::Builder::new().name("login".to_owned());
    name.spawn(move || {
        for question in questions {
            desk.take(question);
        }
    })?;
    Ok(())
}

/// Questions that may wait. When the place is taken the asking core answers 503 at once, which is
/// better than an answer after the caller's patience.
const QUESTIONS_MAX: usize = 4096;
