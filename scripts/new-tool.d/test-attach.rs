//! @NAME@: it attaches to the function.

use crate::harness::{Tool, Way, each_way_of_calls};

each_way_of_calls! { the_function_is_found }

// To do: start a program that calls the function a prime number of times, and expect that number of rows; with
// `assert_described`, expect their keys to be those of the page. See tests/e2e/bashreadline.rs.
fn the_function_is_found(way: Way) {
    let tool = Tool::start("@NAME@", way, [""; 0]);
    assert_eq!(tool.attached["probes"], 1, "{:?}", tool.attached);
    tool.stop();
}
