//! The name under which this process stands in `Via`, so that it knows what comes back to it.
//!
//! The id of a request in, a pseudonym out (RFC 9110 §7.6.3). It is the same for every request of
//! the process and says nothing about the machine.

use crate::parse::Fields;

/// The pseudonym: made of the part of a request's id that all requests of the process share.
pub(crate) fn pseudonym(request_id: &str) -> String {
    [PRODUCT, process(request_id)].concat()
}

/// What a request's id has in common with those of all requests of the process: the second half of
/// the pseudonym, after [`PRODUCT`].
pub(super) fn process(request_id: &str) -> &str {
    request_id.split_once('-').map_or(request_id, |(process, _)| process)
}

/// With what every pseudonym begins.
pub(super) const PRODUCT: &str = "harbor-connector-";

/// Whether a message with `fields` has passed the one that is called `pseudonym`.
pub(crate) fn has_passed(fields: &Fields, pseudonym: &str) -> bool {
    fields.tokens("via").any(|via| {
        let received_by = via.split(|byte| *byte == b' ').nth(1);
        received_by == Some(pseudonym.as_bytes())
    })
}
