//! The suite of `contract::Store`: what a case gets, and the list of cases.

mod batch;
mod execute;
mod inspect;
mod opened;
mod probe;
mod query;

pub use batch::*;
pub use execute::*;
pub use inspect::*;
pub use opened::{Admin, NoSecrets, Opened, Secrets, Sql, change, permit_for};
pub use probe::*;
pub use query::*;

/// One `#[tokio::test]` per case of the store suite.
///
/// `$open` is an `async fn(namespace: &str) -> conformance::Opened` that gives an empty store of its own to each
/// namespace. A new case in the list reaches all adapters.
#[macro_export]
macro_rules! store_suite {
    ($open:path) => {
        $crate::store_suite! { @cases $open:
            probe_says_what_is_there
            probe_past_its_deadline_times_out
            probe_of_a_closed_store_fails
            capabilities_match_the_roles
            inspect_of_an_empty_store_is_empty
            inspect_gives_back_what_was_created
            inspect_keeps_odd_identifiers
            inspect_of_equal_stores_is_equal
            inspect_canceled_reports_canceled
            query_gives_values_of_each_type
            query_binds_parameters
            query_quotes_odd_identifiers
            query_of_nothing_is_empty
            query_stops_at_the_row_limit
            query_stops_at_the_byte_limit
            query_stops_at_the_time_limit
            query_past_its_deadline_times_out
            query_canceled_before_it_began_reports_canceled
            query_canceled_midway_reports_canceled
            query_refuses_more_than_one_statement
            query_refuses_every_write
            query_errors_have_kinds_and_no_secrets
            queries_run_side_by_side
            explain_tells_a_scan_from_an_index
            explain_refuses_writes
            execute_refuses_a_permit_for_something_else
            execute_refuses_an_expired_permit
            execute_leaves_no_record_table_when_only_asked
            transaction_step_runs_once
            transaction_step_is_all_or_nothing
            transaction_step_canceled_midway_leaves_nothing
            transaction_step_past_its_deadline_leaves_nothing
            transaction_step_cannot_leave_its_transaction
            autocommit_step_found_started_is_asked_first
            autocommit_step_found_started_is_cleaned_up_and_run_again
            second_execution_conflicts
            racing_executions_run_one_after_the_other
            dropped_execution_releases_the_lock
            execution_dropped_midway_leaves_nothing
            execution_lets_other_writers_write
            resumed_execution_continues_where_it_stopped
            statement_takes_its_values_and_secrets
            plans_with_equal_steps_have_records_apart
            batched_step_reaches_every_row_once
            batched_step_of_two_columns_reaches_every_row_once
            batched_step_of_an_empty_table_is_done_at_once
            batched_step_cut_short_goes_on_where_it_stopped
            batched_step_is_taken_over_by_its_name
            batch_that_fails_leaves_the_ones_before
            batch_canceled_midway_leaves_the_ones_before
            batched_step_is_run_only_in_batches
            integrity_of_a_sound_store_is_clean
        }
    };
    (@cases $open:path: $($case:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::store::$case(&$open(&$crate::namespace(stringify!($case))).await).await;
            }
        )+
    };
}
