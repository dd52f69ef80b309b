//! The program as people and agents meet it: the built binary, real files, real servers.

mod approvals;
mod doors;
mod faults;
mod isolation;
mod program;
mod project_file;
mod secrets;
