//! The program as people and agents meet it: the built binary, real files, real servers.
#![allow(clippy::unwrap_used)] // Also in the functions that the tests share.

mod access;
mod ai;
mod ai_commands;
mod ai_jobs;
mod ai_money;
mod approvals;
mod archive;
mod backup;
mod between;
mod bucket;
mod checks;
mod copies;
mod daemon;
mod doors;
mod drill;
mod exit_code;
mod faults;
mod isolation;
mod keys;
mod lines;
mod lint;
mod live;
mod migrations;
mod openapi;
mod point_in_time;
mod program;
mod project_file;
mod recover;
mod red;
mod reference;
mod runbooks;
mod secrets;
mod swap;
mod task;
mod unattended;
