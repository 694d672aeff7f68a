(* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause *)
(* Exceptions through the runtime, collections and threads. usage: ocaml ROUNDS *)
exception Left of int

let rec leave levels = if levels = 0 then raise (Left levels) else 1 + leave (levels - 1)

let work rounds =
  let caught = ref 0 in
  for i = 1 to 101 * rounds do
    (try ignore (leave (i mod 50)) with Left _ -> incr caught);
    (try ignore (List.sort (fun _ _ -> raise (Left i)) [ 3; 1; 2 ]) with Left n -> if n = i then incr caught);
    ignore (try int_of_string "x" with Failure _ -> 0);
    if i mod 50 = 0 then Gc.compact ()
  done;
  let table = Hashtbl.create 7 in
  for i = 1 to 997 * rounds do Hashtbl.replace table (string_of_int i) (float_of_int i) done;
  Printf.sprintf "%d %d %s" !caught (Hashtbl.length table) (Digest.to_hex (Digest.string (String.make 9973 'x')))

let () =
  let rounds = int_of_string Sys.argv.(1) in
  let results = Array.make 3 "" in
  let threads = List.init 3 (fun i -> Thread.create (fun () -> results.(i) <- work rounds) ()) in
  List.iter Thread.join threads;
  Array.iter print_endline results
