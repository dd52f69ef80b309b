//! Secrets at rest: envelope keys, versions, rotation.
