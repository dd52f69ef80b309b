//! The binary's library: the door and its five ways in.
