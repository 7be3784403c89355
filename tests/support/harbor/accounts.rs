//! Who may log in, and what a login costs.
//!
//! An `Authorization` in, [`Who`] out. The order of attempts is that of
//! src/server/middleware/security/security.go: an OIDC user's CLI secret, a token, a robot, a
//! user's password. It decides who somebody is, never what they may do.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use super::token::Claims;
use super::{Shared, locked};

/// What an account may do in a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// GET and HEAD.
    Pull,
    /// POST, PATCH and PUT; a robot that may push may pull too.
    Push,
    /// DELETE.
    Delete,
}

/// What an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A user of the local database or of LDAP.
    User,
    /// A user who may do everything.
    Administrator,
    /// A robot.
    Robot,
}

/// One who may log in.
#[derive(Clone)]
pub(crate) struct Account {
    /// The whole name, a robot's prefix included.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// Its rights in projects.
    pub(crate) rights: Vec<(String, Vec<Right>)>,
    /// The CLI secret of an OIDC user, which opens `/v2` and `/service/token` and is shown by
    /// `/users/current` (src/server/v2.0/handler/model/user.go).
    pub(crate) oidc_secret: Option<String>,
    /// A robot that was switched off.
    pub(crate) disabled: bool,
    /// When a robot ends.
    pub(crate) expires: Option<SystemTime>,
    passwords: Vec<String>,
}

impl Account {
    /// A robot; its name must begin with [`super::Settings::robot_prefix`].
    pub(crate) fn robot(name: &str, secret: &str, rights: &[(&str, &[Right])]) -> Self {
        Self::new(Kind::Robot, name, secret, rights)
    }

    /// A user.
    pub(crate) fn user(name: &str, password: &str, rights: &[(&str, &[Right])]) -> Self {
        Self::new(Kind::User, name, password, rights)
    }

    /// A user who may do everything.
    pub(crate) fn administrator(name: &str, password: &str) -> Self {
        Self::new(Kind::Administrator, name, password, &[])
    }

    fn new(kind: Kind, name: &str, password: &str, rights: &[(&str, &[Right])]) -> Self {
        let rights =
            rights.iter().map(|(project, rights)| ((*project).to_owned(), rights.to_vec()));
        Self {
            name: name.to_owned(),
            kind,
            rights: rights.collect(),
            oidc_secret: None,
            disabled: false,
            expires: None,
            passwords: vec![password.to_owned()],
        }
    }

    fn is_over(&self) -> bool {
        self.disabled || self.expires.is_some_and(|end| end <= SystemTime::now())
    }

    fn has_password(&self, password: &str) -> bool {
        self.passwords.last().is_some_and(|known| known == password)
    }
}

/// Who sent a request.
pub(super) enum Who {
    /// Nobody that is known: no credential, or a bad one.
    Nobody,
    /// An account, by Basic.
    Account(Account),
    /// The bearer of a token.
    Bearer(Claims),
}

/// All accounts, and the names that are locked.
pub(super) struct Accounts {
    list: Mutex<Vec<Account>>,
    locks: Mutex<HashMap<String, Instant>>,
}

impl Accounts {
    pub(super) fn new(accounts: &[Account]) -> Self {
        Self { list: Mutex::new(accounts.to_vec()), locks: Mutex::default() }
    }

    pub(super) fn replace_password(&self, account: &str, password: &str) {
        self.change(account, |account| account.passwords.push(password.to_owned()));
    }

    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Account)) {
        let mut list = locked(&self.list);
        change(list.iter_mut().find(|known| known.name == name).expect("a known account"));
    }

    pub(super) fn add(&self, account: Account) {
        locked(&self.list).push(account);
    }

    pub(super) fn named(&self, name: &str) -> Option<Account> {
        locked(&self.list).iter().find(|known| known.name == name).cloned()
    }

    pub(super) fn all(&self) -> Vec<Account> {
        locked(&self.list).clone()
    }

    /// Which of the passwords of `name` this one is; the latest, when it came back.
    pub(super) fn which_password(&self, name: &str, password: &str) -> Option<usize> {
        self.named(name)?.passwords.iter().rposition(|known| known == password)
    }

    fn is_locked(&self, name: &str) -> bool {
        locked(&self.locks).get(name).is_some_and(|since| since.elapsed() < FROZEN)
    }
}

/// Whoever the `Authorization` of a request to `path` speaks of.
pub(super) async fn who(shared: &Shared, path: &str, authorization: Option<&str>) -> Who {
    let Some(value) = authorization else {
        return Who::Nobody;
    };
    if let Some(token) = value.strip_prefix("Bearer ") {
        // A token opens /v2 and nothing else (src/server/middleware/security/v2_token.go).
        let claims = path.starts_with("/v2").then(|| shared.tokens.read(shared, token)).flatten();
        return claims.map_or(Who::Nobody, Who::Bearer);
    }
    let Some((name, password)) = basic_credential(value) else {
        return Who::Nobody;
    };
    shared.record.login(&name);
    let account = match by_secret(shared, path, &name, &password) {
        Some(account) => Some(account),
        None => login(shared, &name, &password).await,
    };
    account.map_or(Who::Nobody, Who::Account)
}

/// Checks a user's password as src/core/auth/authenticator.go does: a failure locks the name for
/// 1.5 s and waits as long before it answers; a locked name fails at once, the password unread.
pub(super) async fn login(shared: &Shared, name: &str, password: &str) -> Option<Account> {
    let accounts = &shared.accounts;
    if accounts.is_locked(name) {
        return None;
    }
    let user = accounts.named(name).filter(|account| account.kind != Kind::Robot);
    if let Some(user) = user.filter(|user| user.has_password(password) && !user.disabled) {
        return Some(user);
    }
    locked(&accounts.locks).insert(name.to_owned(), Instant::now());
    tokio::time::sleep(FROZEN).await;
    None
}

/// A robot (robot.go) or an OIDC user with a CLI secret (oidc_cli.go); neither looks at locks, and
/// one that fails goes on to [`login`], which locks its name.
fn by_secret(shared: &Shared, path: &str, name: &str, secret: &str) -> Option<Account> {
    let account = shared.accounts.named(name)?;
    if name.starts_with(shared.settings.robot_prefix) {
        let good = account.kind == Kind::Robot && account.has_password(secret);
        return (good && !account.is_over()).then_some(account);
    }
    let is_for_images = path.starts_with("/v2") || path.trim_end_matches('/') == "/service/token";
    let is_secret = account.oidc_secret.as_deref() == Some(secret);
    (is_secret && is_for_images).then_some(account)
}

/// Name and password of a Basic credential, as Go's `Request.BasicAuth` reads it.
pub(super) fn basic_credential(value: &str) -> Option<(String, String)> {
    use base64::Engine as _;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// `frozenTime` of src/core/auth/authenticator.go.
const FROZEN: Duration = Duration::from_millis(1500);
