//! What arrived at the front and at the object storage, for stories to look at.
//!
//! Heads in, one line per request out. It keeps which kind of credential came and whose, never
//! the credential; the heads as they came are kept only to be searched for callers' tokens.

use std::fmt;
use std::sync::Mutex;

use hyper::header::{AUTHORIZATION, COOKIE};

use super::accounts::basic_credential;
use super::listen::Request;
use super::{Shared, locked};
use crate::support::leak;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The method.
    pub(crate) method: String,
    /// The request-target as it came.
    pub(crate) target: String,
    /// The credential that came with it.
    pub(crate) authorization: Authorization,
    /// Whether a cookie came with it.
    pub(crate) cookies: bool,
    /// The other fields in order, names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// The status of its answer; 0 while there is none.
    pub(crate) status: u16,
}

/// The kind of credential that came with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Authorization {
    /// No `Authorization`.
    None,
    /// Basic.
    Basic {
        /// Whose.
        principal: String,
        /// Which of the account's passwords, 0 the first; nothing for one it never had.
        password: Option<usize>,
    },
    /// Bearer.
    Bearer,
    /// Something else.
    Other,
}

impl Seen {
    /// The value of the field `name`, when it came.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {:?}", self.status, self.method, self.target, self.authorization)
    }
}

/// Everything that arrived.
#[derive(Default)]
pub(super) struct Record {
    front: Mutex<Vec<Seen>>,
    storage: Mutex<Vec<Seen>>,
    logins: Mutex<Vec<String>>,
    heads: Mutex<Vec<u8>>,
}

impl Record {
    /// Notes a request at the front; [`Record::answered`] takes its number.
    pub(super) fn at_front(&self, shared: &Shared, request: &Request) -> usize {
        let seen = self.seen(shared, request);
        push(&self.front, seen)
    }

    /// Notes a request at the object storage.
    pub(super) fn at_storage(&self, shared: &Shared, request: &Request) -> usize {
        let seen = self.seen(shared, request);
        push(&self.storage, seen)
    }

    /// Notes how a request at the front was answered.
    pub(super) fn answered(&self, number: usize, status: u16) {
        if let Some(seen) = locked(&self.front).get_mut(number) {
            seen.status = status;
        }
    }

    /// Notes how a request at the object storage was answered.
    pub(super) fn stored(&self, number: usize, status: u16) {
        if let Some(seen) = locked(&self.storage).get_mut(number) {
            seen.status = status;
        }
    }

    /// Notes that a credential of `principal` is checked.
    pub(super) fn login(&self, principal: &str) {
        locked(&self.logins).push(principal.to_owned());
    }

    pub(super) fn front(&self) -> Vec<Seen> {
        locked(&self.front).clone()
    }

    pub(super) fn storage(&self) -> Vec<Seen> {
        locked(&self.storage).clone()
    }

    pub(super) fn logins(&self) -> Vec<String> {
        locked(&self.logins).clone()
    }

    /// Fails when a caller's token stands in anything that arrived.
    pub(super) fn assert_free_of_tokens(&self) {
        leak::assert_absent(&leak::tokens(), &locked(&self.heads), "what Harbor received");
    }

    fn seen(&self, shared: &Shared, request: &Request) -> Seen {
        let mut head = format!("{} {}\r\n", request.method(), request.uri()).into_bytes();
        for (name, value) in request.headers() {
            head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        locked(&self.heads).extend(head);
        let fields = request.headers().iter();
        let fields = fields.filter(|(name, _)| **name != AUTHORIZATION && **name != COOKIE);
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Seen {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            authorization: kind(shared, request),
            cookies: request.headers().contains_key(COOKIE),
            fields: fields
                .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
                .collect(),
            status: 0,
        }
    }
}

fn push(list: &Mutex<Vec<Seen>>, seen: Seen) -> usize {
    let mut list = locked(list);
    list.push(seen);
    list.len() - 1
}

fn kind(shared: &Shared, request: &Request) -> Authorization {
    let Some(value) = request.headers().get(AUTHORIZATION) else {
        return Authorization::None;
    };
    let value = String::from_utf8_lossy(value.as_bytes());
    if value.starts_with("Bearer ") {
        return Authorization::Bearer;
    }
    match basic_credential(&value) {
        None => Authorization::Other,
        Some((principal, password)) => {
            let password = shared.accounts.which_password(&principal, &password);
            Authorization::Basic { principal, password }
        }
    }
}
