// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! User names and UIDs, from `/etc/passwd` only: a static glibc binary cannot use the name service switch.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::error::Failure;

/// The users of `/etc/passwd`, by name and by UID.
#[derive(Debug, Default)]
pub struct UserNames {
    by_name: HashMap<String, u32>,
    by_uid: HashMap<u32, String>,
}

impl UserNames {
    /// Reads `/etc/passwd`. Without that file only UIDs are known.
    pub fn load() -> UserNames {
        UserNames::at(Path::new("/etc/passwd"))
    }

    /// Reads a file in the format of `/etc/passwd`. A file that cannot be read has no users.
    pub fn at(path: &Path) -> UserNames {
        UserNames::parse(&fs::read(path).unwrap_or_default())
    }

    /// The UID of a user given by UID, which is not looked up, or by name.
    ///
    /// # Errors
    /// The name is not in `/etc/passwd`.
    pub fn uid(&self, name_or_uid: &str) -> Result<u32> {
        if let Some(uid) = number(name_or_uid.as_bytes()) {
            return Ok(uid);
        }
        match self.by_name.get(name_or_uid) {
            Some(&uid) => Ok(uid),
            None => Err(Failure::failed(format!("no user {name_or_uid:?} in /etc/passwd"))
                .hint("give users of a directory service by UID, as `id -u NAME` prints it")
                .into()),
        }
    }

    /// The name of a user, if known.
    pub fn name(&self, uid: u32) -> Option<&str> {
        self.by_uid.get(&uid).map(String::as_str)
    }

    /// The first line of a name or UID wins, as in the C library.
    fn parse(text: &[u8]) -> UserNames {
        let mut users = UserNames::default();
        for (name, uid) in text.split(|&byte| byte == b'\n').filter_map(entry) {
            users.by_name.entry(name.to_owned()).or_insert(uid);
            users.by_uid.entry(uid).or_insert_with(|| name.to_owned());
        }
        users
    }
}

/// Name and UID of one line `name:password:uid:...`. Skips names with control characters, because names are
/// printed, and the `+name` and `-name` lines of NIS.
fn entry(line: &[u8]) -> Option<(&str, u32)> {
    let mut fields = line.split(|&byte| byte == b':');
    let name = std::str::from_utf8(fields.next()?).ok()?;
    let uid = number(fields.nth(1)?)?;
    let plain = !name.is_empty() && !name.starts_with(['+', '-']) && !name.contains(char::is_control);
    plain.then_some((name, uid))
}

/// Parses a decimal number without sign or blanks.
fn number(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_uids() {
        let users =
            UserNames::parse(b"root:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000::/home/bob:/bin/sh\n");
        assert_eq!(users.uid("root").unwrap(), 0);
        assert_eq!(users.uid("bob").unwrap(), 1000);
        assert_eq!(users.uid("4294967294").unwrap(), 4294967294);
        assert_eq!(users.name(1000), Some("bob"));
        assert_eq!(users.name(7), None);
    }

    #[test]
    fn first_line_wins() {
        let users = UserNames::parse(b"root:x:0:0\ntoor:x:0:0\nroot:x:5:5\n");
        assert_eq!(users.name(0), Some("root"));
        assert_eq!(users.uid("toor").unwrap(), 0);
        assert_eq!(users.uid("root").unwrap(), 0);
    }

    #[test]
    fn unknown_name_has_a_hint() {
        let error = UserNames::default().uid("bob\x1b").unwrap_err();
        let failure = Failure::of(&error);
        assert_eq!(failure.message, "no user \"bob\\u{1b}\" in /etc/passwd");
        assert!(failure.hint.is_some_and(|hint| hint.contains("id -u")));
        for wrong in ["", "-1", "+5", "1000 ", "99999999999"] {
            assert!(UserNames::default().uid(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn malformed_lines_are_skipped() {
        let text = b"\n:x:1:1\nnouid\nshort:x\nbad:x:one:1\nneg:x:-1:1\n\
            esc\x1b[2J:x:2:2\n\xff\xfe:x:3:3\n+nis:x:4:4\nlast:x:6";
        let users = UserNames::parse(text);
        assert_eq!(users.by_uid, HashMap::from([(6, "last".to_owned())]));
    }

    #[test]
    fn missing_file_has_no_users() {
        assert!(UserNames::at(Path::new("/nonexistent/passwd")).by_uid.is_empty());
    }
}
