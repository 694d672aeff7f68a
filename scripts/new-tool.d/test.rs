//! @NAME@: each call once, with its arguments and its result, and no call of another process.

use crate::caller::start_caller;
use crate::docs::assert_described;
use crate::harness::{Tool, Way, each_way_of_calls};

const FUNCTION: &str = "@TARGET@:@FUNCTION@";
const ARGUMENTS: &str = "@ARGUMENTS@";
/// In the last argument of the calls of this test. The program may also call the function for its own ends.
const MARK: u64 = 1_000_003;

each_way_of_calls! { each_call_is_shown_with_its_arguments_and_result }

fn each_call_is_shown_with_its_arguments_and_result(way: Way) {
    let (Some(mut target), Some(mut other)) = (start_caller(FUNCTION), start_caller(FUNCTION)) else {
        return;
    };
    let pid = target.pid();
    let tool = Tool::start("@NAME@", way, ["-p", &pid.to_string()]);
    other.ask(&format!("7 {ARGUMENTS} {MARK}"));
    let worker = target.ask(&format!("13 {ARGUMENTS} {MARK}")).remove(0);
    let run = tool.stop();

    run.assert_clean();
    assert_eq!(run.with("pid", pid).len(), run.rows.len(), "{:?}", run.rows);
    let calls = run.with("arg5", format!("{MARK:#x}"));
    let results: Vec<&str> = calls.iter().filter_map(|call| call["retval"].as_str()).collect();
    assert_eq!(results, worker.addresses);
    assert_eq!(results.len(), 13);
    for call in calls {
        assert_eq!((&call["tid"], &call["function"]), (&worker.tid.into(), &"@FUNCTION@".into()));
    }
    assert_described(include_str!("../../docs/tools/@NAME@.md"), &run.rows);
}
