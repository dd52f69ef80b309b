//! The PM's side: a task in, a plan of known requests, a report and escalations out.
