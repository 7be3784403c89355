//! The path that a request asks for, kept for what comes after the request.
//!
//! A path whose grammar has been checked in, the names in it out: byte for byte what the caller
//! wrote.

use std::rc::Rc;

use super::Resource;
use crate::parse::Span;

/// The path that was asked for, and the names in it: cheap to copy, for the record of the request
/// and for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    rest: Rc<str>,
    repository: Span,
    reference: Span,
}

impl Asked {
    pub(super) fn new(rest: &str, resource: Resource, repository: Span) -> Self {
        let reference = match resource {
            Resource::Manifest { reference } => reference,
            Resource::Blob { digest } | Resource::Referrers { digest } => digest,
            _ => Span::default(),
        };
        Self { rest: rest.into(), repository, reference }
    }

    /// See [`Target::rest`].
    pub(crate) fn rest(&self) -> &str {
        &self.rest
    }

    /// See [`Target::repository`].
    pub(crate) fn repository(&self) -> &str {
        self.repository.text(&self.rest)
    }

    /// The tag or digest, as written; empty where there is none.
    pub(crate) fn reference(&self) -> &str {
        self.reference.text(&self.rest)
    }
}
