// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! OCaml 5 runs C code on another stack than its own, and its exceptions pass returns.

use std::process::Command;

use super::commands::trace_command;
use crate::funclist::rows;
use crate::harness::{AttachMode, Folder, best_mode, run_to_end, skip};

best_mode! { functions_of_ocaml_are_traced }

const SOURCE: &str = r#"
let[@inline never] rec build n = if n = 0 then [] else string_of_int n :: build (n - 1)
let[@inline never] work k = List.length (build k)
let () = let s = ref 0 in for _ = 1 to 199 do s := !s + work 50 done; Printf.printf "%d\n" !s
"#;

fn functions_of_ocaml_are_traced(mode: AttachMode) {
    let folder = Folder::new();
    let (source, program) = (folder.path.join("lists.ml"), folder.path.join("lists"));
    std::fs::write(&source, SOURCE).expect("a file");
    if Command::new("ocamlopt").arg("-version").output().is_err() {
        return skip("ocamlopt is not installed");
    }
    let built = run_to_end(Command::new("ocamlopt").arg("-o").args([&program, &source]));
    assert!(built.status.success(), "{built:?}");
    let names = ["build", "work"].map(|function| {
        // With a number, such as camlLists__work_281.
        let found = rows(&[&format!("{}:caml*{function}_*", program.display())]);
        found[0]["function"].as_str().expect("a name").to_owned()
    });
    let names = names.each_ref().map(String::as_str);
    for (tool, options) in [("funccount", &[][..]), ("funclatency", &["-F"])] {
        let run = trace_command(tool, mode, &program, &names, options);
        let count = |name: &str| run.with("function", name)[0]["count"].as_u64();
        let counts = names.map(count);
        assert_eq!(counts, [Some(199 * 51), Some(199)], "{tool}: {}", run.stderr);
    }
    let run = trace_command("functrace", mode, &program, &names[1..], &["--ret"]);
    assert_eq!(run.rows.len(), 199, "{}", run.stderr);
}
