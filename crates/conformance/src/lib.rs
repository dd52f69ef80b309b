//! One suite per contract trait, run by every adapter against the real server.
