// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Whole rows in each format.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use std::rc::Rc;
use std::sync::atomic::AtomicU32;

use super::*;

const COLUMNS: &[Column] = &[
    Column::left("TIME", "time", 8),
    Column::right("PID", "pid", 7),
    Column::right("UID", "uid", 5).data_only(),
    Column::left("COMM", "comm", 8),
    Column::right("LATus", "lat_ns", 9),
    Column::left("CALL", "call", 6).text_only(),
    Column::below("stack"),
    Column::left("WHAT", "what", 12),
];

/// 2027-01-15T08:00:00Z.
const NOON: u64 = 1_800_000_000_000_000_000;

static NEVER: AtomicU32 = AtomicU32::new(0);

fn output(format: Format) -> Output {
    Output::new(format, Destination::Stdout, false, &NEVER)
}

fn row<'a>(comm: &'a [u8], stack: &'a [Rc<str>], what: &'a [u8]) -> [Value<'a>; 8] {
    [
        Value::Time(NOON + 7),
        Value::U64(42),
        Value::U64(1000),
        Value::Bytes(comm),
        Value::Micros(1_234),
        Value::Str("malloc"),
        Value::Lines(stack),
        Value::Bytes(what),
    ]
}

fn written(output: &Output) -> &str {
    std::str::from_utf8(&output.buffer).unwrap()
}

/// The text of one row, with the local time replaced.
fn text(table: &Table, values: &[Value]) -> String {
    let mut output = output(Format::Text);
    output.row(table, values);
    let mut clock = Vec::new();
    TimeFormatter::new().push_local(&mut clock, NOON);
    written(&output).replace(std::str::from_utf8(&clock).unwrap(), "hh:mm:ss")
}

fn json(table: &Table, values: &[Value]) -> serde_json::Map<String, serde_json::Value> {
    let mut output = output(Format::Json);
    output.row(table, values);
    let line = written(&output).strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'));
    match serde_json::from_str(line) {
        Ok(serde_json::Value::Object(object)) => object,
        other => panic!("{other:?}: {line}"),
    }
}

/// All rows of CSV text, as csv-core reads them.
fn csv_rows_of(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut reader = csv_core::Reader::new();
    let (mut field, mut all, mut record) = (vec![0; text.len() + 1], Vec::new(), Vec::new());
    let mut rest = text;
    loop {
        let (result, read, wrote) = reader.read_field(rest, &mut field);
        rest = &rest[read..];
        match result {
            csv_core::ReadFieldResult::InputEmpty => {}
            csv_core::ReadFieldResult::Field { record_end } => {
                record.push(field[..wrote].to_vec());
                if record_end {
                    all.push(std::mem::take(&mut record));
                }
            }
            csv_core::ReadFieldResult::End => return all,
            csv_core::ReadFieldResult::OutputFull => panic!("a field longer than the text"),
        }
    }
}

fn csv(table: &Table, values: &[Value]) -> Vec<String> {
    let mut output = output(Format::Csv);
    output.row(table, values);
    assert!(output.buffer.ends_with(b"\n"));
    let mut all = csv_rows_of(&output.buffer);
    assert_eq!(all.len(), 1, "{}", written(&output));
    all.remove(0)
        .into_iter()
        .map(|field| String::from_utf8(field).unwrap())
        .collect()
}

/// Pseudo-random bytes, the same in each run, with many quotes, escapes and invalid UTF-8.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn bytes(&mut self) -> Vec<u8> {
        const PIECES: [&[u8]; 12] = [
            b"\"",
            b"\\",
            b",",
            b"\n",
            b"\r",
            b"\x1b[2J",
            b";",
            "é".as_bytes(),
            "\u{202e}".as_bytes(),
            "\u{200d}".as_bytes(),
            "\u{1f600}".as_bytes(),
            b"\xe2\x82",
        ];
        let mut bytes = Vec::new();
        for _ in 0..self.next() % 12 {
            match self.next() as usize % (PIECES.len() + 4) {
                piece if piece < PIECES.len() => bytes.extend_from_slice(PIECES[piece]),
                _ => bytes.push(self.next() as u8),
            }
        }
        bytes
    }
}

#[test]
fn text_rows() {
    let table = Table::new("event", COLUMNS);
    let mut output = output(Format::Text);
    output.header(&table);
    assert_eq!(
        written(&output),
        "TIME         PID COMM         LATus CALL   WHAT\n"
    );
    let stack: [Rc<str>; 2] = ["main+0x1".into(), "\x1b[0m".into()];
    let expected = "hh:mm:ss      42 python3      1.234 malloc a b\n    main+0x1\n    \\x1b[0m\n";
    assert_eq!(text(&table, &row(b"python3", &stack, b"a b")), expected);
}

#[test]
fn text_is_padded_by_characters_and_never_cut() {
    const NAMES: &[Column] = &[
        Column::left("A", "a", 4),
        Column::right("B", "b", 4),
        Column::left("C", "c", 4),
    ];
    let table = Table::new("event", NAMES);
    let names = |a, b, c| text(&table, &[Value::Str(a), Value::Str(b), Value::Str(c)]);
    assert_eq!(names("a", "b", "c"), "a       b c\n");
    assert_eq!(names("éé", "é", "é"), "éé      é é\n");
    assert_eq!(names("aaaa", "bbbb", "cccc"), "aaaa bbbb cccc\n");
    assert_eq!(names("aaaaa", "bbbbb", "ccccc"), "aaaaa bbbbb ccccc\n");
    assert_eq!(names("", "", ""), "          \n");
    let last_right = Table::new("event", NAMES).without("c");
    assert_eq!(
        text(&last_right, &[Value::Null, Value::U64(7), Value::Null]),
        "-       7\n"
    );
}

#[test]
fn json_rows() {
    let table = Table::new("event", COLUMNS);
    let mut output = output(Format::Json);
    output.header(&table);
    output.row(&table, &row(b"a\"b", &["f\\".into(), "g".into()], b"x\ny"));
    let expected = concat!(
        r#"{"type":"event","time":"2027-01-15T08:00:00.000000007Z","pid":42,"uid":1000,"comm":"a\"b","#,
        r#""lat_ns":1234,"stack":["f\\","g"],"what":"x\ny"}"#,
        "\n"
    );
    assert_eq!(written(&output), expected);
}

#[test]
fn csv_rows() {
    let table = Table::new("event", COLUMNS);
    let mut output = output(Format::Csv);
    output.header(&table);
    output.row(&table, &row(b"a\"b", &["f".into(), "g".into()], b"x,\ny"));
    let expected = concat!(
        "time,pid,uid,comm,lat_ns,stack,what\n",
        "2027-01-15T08:00:00.000000007Z,42,1000,\"a\"\"b\",1234,f;g,\"x,\\ny\"\n"
    );
    assert_eq!(written(&output), expected);
}

#[test]
fn csv_has_one_header_and_quiet_text_has_none() {
    let (event, count) = (Table::new("event", COLUMNS), Table::new("count", &COLUMNS[1..2]));
    let mut csv = output(Format::Csv);
    for table in [&event, &event, &count, &count] {
        csv.header(table);
    }
    assert_eq!(written(&csv), "time,pid,uid,comm,lat_ns,stack,what\npid\n");
    let mut quiet = Output::new(Format::Text, Destination::Stdout, true, &NEVER);
    quiet.header(&event);
    assert_eq!(written(&quiet), "");
    let mut quiet = Output::new(Format::Csv, Destination::Stdout, true, &NEVER);
    quiet.header(&count);
    assert_eq!(written(&quiet), "pid\n", "quiet does not affect CSV");
}

#[test]
fn columns_can_be_disabled() {
    let values = &row(b"sh", &[], b"x");
    let without = Table::new("event", COLUMNS)
        .without("comm")
        .without("what")
        .without("stack");
    assert_eq!(text(&without, values), "hh:mm:ss      42     1.234 malloc\n");
    let keys: Vec<String> = json(&without, values).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["lat_ns", "pid", "time", "type", "uid"]);
    assert_eq!(csv(&without, values).len(), 4);

    let hidden = Table::new("event", COLUMNS)
        .in_text("time", false)
        .in_text("uid", true)
        .in_text("what", false);
    assert_eq!(text(&hidden, values), "     42  1000 sh           1.234 malloc\n");
    assert!(json(&hidden, values).contains_key("time"));
    assert_eq!(csv(&hidden, values).len(), 7);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "no column adr in event")]
fn unknown_column_panics_in_debug_builds() {
    _ = Table::new("event", COLUMNS).without("adr");
}

#[test]
fn invalid_utf8_in_each_format() {
    let table = Table::new("event", COLUMNS).without("stack").without("comm");
    let values = &row(b"", &[], b"a\xff\x1b\xc3");
    assert!(text(&table, values).ends_with(" a\\xff\\x1b\\xc3\n"));
    assert_eq!(csv(&table, values).last().unwrap(), "a\\xff\\x1b\\xc3");
    let object = json(&table, values);
    assert_eq!(object["what"], "a\u{fffd}\u{1b}\u{fffd}");
    assert_eq!(object["what_hex"], "61ff1bc3");
    assert!(!json(&table, &row(b"", &[], "\u{fffd}".as_bytes())).contains_key("what_hex"));
}

#[test]
fn json_of_any_bytes_is_valid_and_lossless() {
    let table = Table::new("event", COLUMNS);
    let mut noise = Noise(1);
    for _ in 0..5_000 {
        let (comm, what) = (noise.bytes(), noise.bytes());
        let stack = [String::from_utf8_lossy(&noise.bytes()).into(), "".into()];
        let object = json(&table, &row(&comm, &stack, &what));
        for (key, bytes) in [("comm", &comm), ("what", &what)] {
            assert_eq!(object[key], String::from_utf8_lossy(bytes).as_ref());
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let expected = std::str::from_utf8(bytes).is_err().then_some(hex);
            assert_eq!(
                object.get(&format!("{key}_hex")).and_then(|hex| hex.as_str()),
                expected.as_deref()
            );
        }
        assert_eq!(
            object["stack"],
            serde_json::json!(stack.iter().map(AsRef::<str>::as_ref).collect::<Vec<_>>())
        );
    }
}

#[test]
fn csv_of_any_bytes_keeps_its_fields() {
    let table = Table::new("event", COLUMNS);
    let mut noise = Noise(2);
    for _ in 0..5_000 {
        let (comm, what) = (noise.bytes(), noise.bytes());
        let fields = csv(&table, &row(&comm, &[], &what));
        assert_eq!(fields.len(), 7);
        let shown = [&fields[3], &fields[6]].map(|field| field.strip_prefix('\'').unwrap_or(field));
        let expected = [escape::printable(&comm), escape::printable(&what)];
        for (shown, expected) in shown.into_iter().zip(&expected) {
            assert_eq!(shown, expected.strip_prefix('\'').unwrap_or(expected));
        }
    }
}

#[test]
fn csv_text_is_no_formula() {
    const ONE: &[Column] = &[Column::left("A", "a", 0)];
    let table = Table::new("event", ONE);
    for text in ["=1+1", "+1", "-1", "@SUM(A1)", "=\"a\",b", "\u{ff1d}1"] {
        let fields = csv(&table, &[Value::Bytes(text.as_bytes())]);
        assert_eq!(fields, [format!("'{text}")]);
    }
    for text in ["a=b", "1-1", " =1", "'=1", "\t=1"] {
        let fields = csv(&table, &[Value::Bytes(text.as_bytes())]);
        assert_eq!(fields, [escape::printable(text.as_bytes())]);
    }
    assert_eq!(
        csv(&table, &[Value::Lines(&["=f".into(), "g".into()])]),
        ["'=f;g"]
    );
    assert_eq!(csv(&table, &[Value::Datum(&Datum::Name("-A"))]), ["'-A"]);
    assert_eq!(csv(&table, &[Value::Datum(&Datum::I64(-7))]), ["-7"]);
    assert_eq!(csv(&table, &[Value::Datum(&Datum::F64(-0.5))]), ["-0.5"]);
}

#[test]
fn text_of_any_bytes_is_one_printable_line() {
    let table = Table::new("event", COLUMNS);
    let mut noise = Noise(3);
    for _ in 0..5_000 {
        let line = text(&table, &row(&noise.bytes(), &[], &noise.bytes()));
        assert_eq!(line.lines().count(), 1);
        assert!(
            line.trim_end_matches('\n')
                .chars()
                .all(|c| !c.is_control() && c != '\u{202e}'),
            "{line:?}"
        );
    }
}

#[test]
fn trusted_text_is_quoted_too() {
    const ONE: &[Column] = &[Column::left("A", "a", 0)];
    let table = Table::new("event", ONE);
    for value in ["", "a,b", "\"", "a\nb", "\r"] {
        assert_eq!(csv(&table, &[Value::Str(value)]), [value]);
        assert_eq!(json(&table, &[Value::Str(value)])["a"], value);
    }
}

#[test]
fn records_are_json_only() {
    let fields = [
        ("probes", Value::U64(3)),
        ("file", Value::Bytes(b"/\xff")),
        ("hint", Value::Null),
    ];
    let mut json = output(Format::Json);
    json.record("attached", &fields);
    let expected =
        "{\"type\":\"attached\",\"probes\":3,\"file\":\"/\u{fffd}\",\"file_hex\":\"2fff\",\"hint\":null}\n";
    assert_eq!(written(&json), expected);
    for format in [Format::Text, Format::Csv] {
        let mut output = output(format);
        output.record("attached", &fields);
        assert_eq!(written(&output), "");
    }
}

#[test]
fn titles_are_text_only() {
    for (format, expected) in [(Format::Text, "title\n"), (Format::Json, ""), (Format::Csv, "")] {
        let mut output = output(format);
        output.text(|out| out.extend_from_slice(b"title\n"));
        assert_eq!(written(&output), expected);
    }
}

fn to_file(file: impl Into<std::fs::File>) -> Output {
    let mut output = Output::new(Format::Json, Destination::File(file.into()), false, &NEVER);
    output.record("summary", &[]);
    output
}

#[test]
fn flush_empties_the_buffer() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut output = to_file(OwnedFd::from(writer));
    output.flush().unwrap();
    output.flush().unwrap();
    drop(output);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "{\"type\":\"summary\"}\n");
}

#[test]
fn full_disk_is_an_error_and_keeps_the_rows() {
    let mut output = to_file(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let error = output.flush().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(
        error
            .to_string()
            .starts_with("failed to write to the output file: No space left"),
        "{error}"
    );
    assert_eq!(written(&output), "{\"type\":\"summary\"}\n");
}

#[test]
fn closed_pipe_is_a_broken_pipe_error() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut output = to_file(OwnedFd::from(writer));
    assert_eq!(output.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn only_rows_are_counted() {
    let table = Table::new("event", COLUMNS);
    for format in [Format::Text, Format::Json, Format::Csv] {
        let mut output = output(format);
        output.header(&table);
        output.record("attached", &[]);
        output.text(|out| out.push(b'\n'));
        for _ in 0..3 {
            output.row(&table, &row(b"", &[], b""));
        }
        assert_eq!(output.rows(), 3);
    }
}

#[test]
fn clock_is_read_once_per_batch() {
    let mut output = output(Format::Json);
    let right = output.wall(0);
    output.clock.set(WallClock::default());
    assert!(
        output.wall(0).abs_diff(right) < 1_000_000_000,
        "at the start of a batch"
    );
    output.record("summary", &[]);
    output.clock.set(WallClock::default());
    assert_eq!(output.wall(7), 7, "within a batch");
    let now = time::now_ns();
    assert!(output.wall_now().abs_diff(now) < 10_000_000_000 && now > NOON / 2);
}

#[test]
fn full_buffer_is_reported() {
    let mut output = to_file(OpenOptions::new().write(true).open("/dev/null").unwrap());
    while !output.is_full() {
        output.record("summary", &[]);
    }
    assert!((FULL..FULL + 100).contains(&output.buffer.len()));
    output.flush().unwrap();
    assert!(!output.is_full());
}

/// A cell padded without any fast path.
fn expected_cell(column: &TextColumn, value: &Value) -> String {
    let mut text = Vec::new();
    value.push_text(&mut text, &mut TimeFormatter::new());
    let (text, width) = (String::from_utf8(text).unwrap(), column.width);
    match column.align {
        Align::Left => format!("{text:<width$}"),
        Align::Right => format!("{text:>width$}"),
    }
}

#[test]
fn cells_of_any_value_and_width_match_the_slow_path() {
    let names: Vec<Vec<u8>> = (0..=20)
        .flat_map(|len| [b'x', b'\n', 0xff, b'"'].map(|last| [vec![b'a'; len], vec![last]].concat()))
        .chain([Vec::new(), "é".into(), "日本語".into()])
        .collect();
    let numbers = (0..20).flat_map(|log| [10u64.pow(log) - 1, 10u64.pow(log)]);
    let mut values: Vec<Value> = names.iter().map(|name| Value::Bytes(name)).collect();
    values.extend(numbers.flat_map(|n| [Value::U64(n), Value::Micros(n), Value::Hex(n), Value::Time(n)]));
    values.extend([
        Value::Null,
        Value::Bool(true),
        Value::Str("malloc"),
        Value::Str("größe"),
    ]);
    values.extend([Value::Share(0.5), Value::Lines(&[]), Value::Fields(&[])]);
    for (align, width) in [Align::Left, Align::Right]
        .into_iter()
        .flat_map(|align| (0..=40).map(move |width| (align, width)))
    {
        let column = TextColumn {
            index: 0,
            header: "",
            width,
            align,
        };
        for value in &values {
            let mut out = b"x".to_vec();
            push_cell(&mut out, &column, value, &mut TimeFormatter::new());
            let expected = format!("x{}", expected_cell(&column, value));
            assert_eq!(
                String::from_utf8(out).unwrap(),
                expected,
                "{value:?} {align:?} {width}"
            );
        }
    }
}

#[test]
fn csv_matches_csv_core() {
    const TWO: &[Column] = &[Column::left("A", "a", 0), Column::left("B", "b", 0)];
    let fields = [
        "", "a", "\"", "\"\"", "a\"b", "\"a\"", ",", "a,\"b\",", "\n", "\r\n", "é,\"",
    ];
    for table in [Table::new("event", TWO), Table::new("event", TWO).without("b")] {
        for (a, b) in fields.iter().flat_map(|a| fields.map(|b| (*a, b))) {
            let mut output = output(Format::Csv);
            output.row(&table, &[Value::Str(a), Value::Str(b)]);
            let (mut writer, mut expected) = (csv_core::Writer::new(), vec![0; 100]);
            let mut end = writer.field(a.as_bytes(), &mut expected).2;
            if table.data_columns().len() == 2 {
                end += writer.delimiter(&mut expected[end..]).1;
                end += writer.field(b.as_bytes(), &mut expected[end..]).2;
            }
            end += writer.terminator(&mut expected[end..]).1;
            assert_eq!(output.buffer, &expected[..end], "{a:?} {b:?}");
        }
    }
}
