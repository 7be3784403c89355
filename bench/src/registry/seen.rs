//! What the registry was shown by those who asked: names and numbers, never a password.
//!
//! Request heads in, an [`Account`] of them out. It exists to prove a negative: that no request
//! carried the token of the Pod on whose behalf it was sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use base64::prelude::{BASE64_STANDARD, Engine};

use super::http::Head;

/// What was seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Requests in all.
    pub(crate) requests: u64,
    /// Requests by the user name of their Basic credential, right or wrong.
    pub(crate) users: BTreeMap<String, u64>,
    /// Requests whose credential was missing or wrong.
    pub(crate) refused: u64,
    /// Requests with an Authorization that is not Basic, a Proxy-Authorization or a Cookie.
    pub(crate) foreign: u64,
    /// Requests that held a marker anywhere in their head, also inside Base64.
    pub(crate) marked: u64,
}

/// Counts requests as they arrive.
pub(crate) struct Seen {
    markers: Vec<String>,
    account: Mutex<Account>,
}

impl Seen {
    /// Starts counting; `markers` are texts that must not appear.
    pub(crate) fn new(markers: Vec<String>) -> Self {
        Self { markers, account: Mutex::default() }
    }

    /// What was seen so far.
    pub(crate) fn account(&self) -> Account {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts one request. Returns its user's name when this is its first request.
    pub(crate) fn note(&self, head: &Head, refused: bool) -> Option<String> {
        let basic = basic_of(head);
        let authorizations = head.fields.all("authorization").count();
        let foreign = authorizations > usize::from(basic.is_some())
            || head.fields.first("proxy-authorization").is_some()
            || head.fields.first("cookie").is_some();
        let marked = self.markers.iter().any(|marker| holds(head, marker));

        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.requests += 1;
        account.refused += u64::from(refused);
        account.foreign += u64::from(foreign);
        account.marked += u64::from(marked);
        let (user, _) = basic?;
        // Whoever can connect can invent names: beyond the bound they are counted as one.
        let known = account.users.contains_key(&user) || account.users.len() < USERS_MAX;
        let user = if known { user } else { "(others)".to_owned() };
        let count = account.users.entry(user.clone()).or_default();
        *count += 1;
        (*count == 1).then_some(user)
    }
}

/// User and password of the request's Basic credential (RFC 7617), if it has exactly one.
pub(crate) fn basic_of(head: &Head) -> Option<(String, String)> {
    let mut values = head.fields.all("authorization");
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn holds(head: &Head, marker: &str) -> bool {
    let decodes_to_it = |word: &str| {
        let decoded = BASE64_STANDARD.decode(word).unwrap_or_default();
        String::from_utf8_lossy(&decoded).contains(marker)
    };
    let plain = |text: &str| text.contains(marker) || text.split_whitespace().any(decodes_to_it);
    let mut fields = head.fields.0.iter();
    plain(&head.target)
        || plain(&head.path)
        || head.query.iter().any(|(name, value)| plain(name) || plain(value))
        || fields.any(|(name, value)| plain(name) || plain(value))
}

const USERS_MAX: usize = 256;
