//! The program as people and agents meet it: the built binary, real files, real servers.

mod approvals;
mod daemon;
mod doors;
mod faults;
mod isolation;
mod migrations;
mod program;
mod project_file;
mod reference;
mod secrets;
mod task;
