// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Compares values in JSON.

use serde_json::Value;

/// How a value differs from the truth.
pub fn difference(path: &str, truth: &Value, shown: &Value) -> Option<String> {
    match (truth, shown) {
        (Value::String(any), _) if any == "*" => None,
        (Value::String(wide), Value::Null) if wide == "?" => None,
        (Value::Number(number), Value::Number(shown)) if number.is_f64() => {
            (number.as_f64() != shown.as_f64()).then(|| differs(path, truth, shown))
        }
        (Value::Object(members), Value::Object(shown)) if members.len() == shown.len() => {
            members.iter().find_map(|(name, member)| {
                difference(
                    &format!("{path}.{name}"),
                    member,
                    shown.get(name).unwrap_or(&Value::Null),
                )
            })
        }
        (Value::Array(items), Value::Array(shown)) if items.len() == shown.len() => items
            .iter()
            .zip(shown)
            .enumerate()
            .find_map(|(index, (item, shown))| difference(&format!("{path}[{index}]"), item, shown)),
        _ => (truth != shown).then(|| differs(path, truth, shown)),
    }
}

/// How two values differ where both are known.
pub fn contradiction(path: &str, theirs: &Value, ours: &Value) -> Option<String> {
    match (theirs, ours) {
        (Value::Null, _) | (_, Value::Null) => None,
        (Value::String(wide), _) if wide == "?" => None,
        (theirs, ours) if is_address(theirs) && is_address(ours) => None,
        (Value::Object(theirs), Value::Object(ours)) => theirs
            .iter()
            .find_map(|(name, theirs)| contradiction(&format!("{path}.{name}"), theirs, ours.get(name)?)),
        (Value::Array(theirs), Value::Array(ours)) => theirs
            .iter()
            .zip(ours)
            .enumerate()
            .find_map(|(index, (theirs, ours))| contradiction(&format!("{path}[{index}]"), theirs, ours)),
        _ => difference(path, theirs, ours),
    }
}

fn differs(path: &str, truth: &Value, shown: impl std::fmt::Display) -> String {
    format!("{path} is {shown}, not {truth}")
}

fn is_address(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with("0x"))
}
