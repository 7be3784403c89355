//! The messages between the kubelet and this driver, generated from `proto/` by the build.

/// Calls of the kubelet to a driver (CSI, package `csi.v1`).
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated; documented by the specification"
)]
pub mod csi {
    tonic::include_proto!("driver/csi.v1");
}

/// Calls of the kubelet to a plugin that registers itself.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated; documented by the specification"
)]
pub mod registration {
    tonic::include_proto!("driver/pluginregistration");
}
