//! The query as the registry gets it: without what is meant for a mirror, and with a mount's
//! source in the registry's own terms.
//!
//! A checked query in (see `target::query`), a query out. Parameters that need no change keep
//! their order and their bytes: an upload's state is signed.

use std::borrow::Cow;

use crate::target::{Form, Resource, Target, name};
use crate::vocabulary::ConnectorRef;

/// What happens to a mount whose source is the connector's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mount {
    /// It is asked for.
    Keep,
    /// It goes: a plain upload is asked for.
    Drop,
}

/// A query for the registry.
pub(super) struct Rewritten<'a> {
    /// Without the question mark; `None` where nothing is left.
    pub(super) text: Option<Cow<'a, str>>,
    /// Whether it asks for a mount from a named repository.
    pub(super) mounts: bool,
}

/// The registry's query for `target`, a path of `connector`.
///
/// A `from` that is not a repository of the same connector goes, and `mount` with it: the registry
/// then answers 202 and the caller uploads, which the specification always allows.
pub(super) fn rewritten<'a>(
    target: &'a Target,
    connector: &ConnectorRef,
    mount: Mount,
) -> Rewritten<'a> {
    let Some(query) = target.query() else {
        return Rewritten { text: None, mounts: false };
    };
    if *target.resource() == Resource::Api {
        return Rewritten { text: Some(Cow::Borrowed(query)), mounts: false };
    }
    let from = query.split('&').find_map(|pair| value(pair, "from"));
    let source = from.and_then(|from| source(from, target.form(), connector));
    let source = source.map(|source| source.replace('/', "%2F"));
    let source = if mount == Mount::Keep { source } else { None };
    let drops_mount = (from.is_some() && source.is_none()) || mount == Mount::Drop;

    let goes = |pair: &&str| {
        let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
        !(pair.is_empty()
            || name == "ns"
            || (drops_mount && matches!(name, "from" | "mount" | "origin")))
    };
    if !drops_mount && source.is_none() && query.split('&').all(|pair| goes(&pair)) {
        return Rewritten { text: Some(Cow::Borrowed(query)), mounts: false };
    }
    let mut text = String::with_capacity(query.len());
    for pair in query.split('&').filter(goes) {
        if !text.is_empty() {
            text.push('&');
        }
        match (value(pair, "from"), &source) {
            (Some(_), Some(source)) => {
                text.push_str("from=");
                text.push_str(source);
            }
            _ => text.push_str(pair),
        }
    }
    let mounts = source.is_some() && query.split('&').any(|pair| value(pair, "mount").is_some());
    Rewritten { text: (!text.is_empty()).then_some(Cow::Owned(text)), mounts }
}

/// The repository of `connector` that `target` asks to mount from, if there is one.
pub(super) fn mount_source(target: &Target, connector: &ConnectorRef) -> Option<String> {
    if *target.resource() != Resource::UploadStart {
        return None;
    }
    let from = target.query()?.split('&').find_map(|pair| value(pair, "from"))?;
    source(from, target.form(), connector)
}

/// The value of `pair`, if it is a parameter of that name.
fn value<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let (known, value) = pair.split_once('=').unwrap_or((pair, ""));
    (known == name).then_some(value)
}

/// The repository that `from` names in the registry, if it is one of `connector`'s.
///
/// The grammar of a repository needs no escape but the slash's, so what is left after that is
/// checked as it stands. A name of one component is not taken: Harbor has none, and answers 400,
/// which ends some clients' push.
fn source(from: &str, form: Form, connector: &ConnectorRef) -> Option<String> {
    let plain = from.replace("%2F", "/").replace("%2f", "/");
    let repository = match (name::split_prefix(&plain), form) {
        // The registry's own names.
        (_, Form::Forward) => &plain,
        (Some(((namespace, name), rest)), _) => {
            let same = namespace == connector.namespace() && name == connector.name();
            same.then_some(rest)?
        }
        (None, Form::Host) => &plain,
        (None, Form::Path) => return None,
    };
    let is_good = name::is_repository(repository) && repository.contains('/');
    is_good.then(|| repository.to_owned())
}
