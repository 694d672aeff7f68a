//! User names and numbers, from `/etc/passwd` alone: a static glibc binary cannot ask the name service.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::error::Failure;

/// The users of `/etc/passwd`, by name and by number.
#[derive(Debug, Default)]
pub struct UserNames {
    by_name: HashMap<String, u32>,
    by_uid: HashMap<u32, String>,
}

impl UserNames {
    /// Reads `/etc/passwd`; without that file there are no names, and numbers still work.
    pub fn load() -> UserNames {
        UserNames::at(Path::new("/etc/passwd"))
    }

    /// Reads a file of the form of `/etc/passwd`; one that cannot be read has no users.
    pub fn at(path: &Path) -> UserNames {
        UserNames::parse(&fs::read(path).unwrap_or_default())
    }

    /// The number of a user who is given by number (taken as it is) or by name.
    ///
    /// Fails for a name that is not in `/etc/passwd`.
    pub fn uid(&self, name_or_number: &str) -> Result<u32> {
        if let Some(uid) = number(name_or_number.as_bytes()) {
            return Ok(uid);
        }
        match self.by_name.get(name_or_number) {
            Some(&uid) => Ok(uid),
            None => Err(
                Failure::failed(format!("no user {name_or_number:?} in /etc/passwd"))
                    .hint("give users of a directory service by UID, as `id -u NAME` prints it")
                    .into(),
            ),
        }
    }

    /// The name of a user, where it is known.
    pub fn name(&self, uid: u32) -> Option<&str> {
        self.by_uid.get(&uid).map(String::as_str)
    }

    /// The first line wins for a name and for a number, as in the C library.
    fn parse(text: &[u8]) -> UserNames {
        let mut users = UserNames::default();
        for (name, uid) in text.split(|&byte| byte == b'\n').filter_map(entry) {
            users.by_name.entry(name.to_owned()).or_insert(uid);
            users.by_uid.entry(uid).or_insert_with(|| name.to_owned());
        }
        users
    }
}

/// Name and number of one line `name:password:uid:...`.
///
/// Names are printed later on, so a line with a name that could disturb a terminal is passed over, as are the
/// `+name` and `-name` lines of NIS.
fn entry(line: &[u8]) -> Option<(&str, u32)> {
    let mut fields = line.split(|&byte| byte == b':');
    let name = std::str::from_utf8(fields.next()?).ok()?;
    let uid = number(fields.nth(1)?)?;
    let plain = !name.is_empty() && !name.starts_with(['+', '-']) && !name.contains(char::is_control);
    plain.then_some((name, uid))
}

/// A decimal number without sign or blanks.
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
    fn names_and_numbers() {
        let users =
            UserNames::parse(b"root:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000::/home/bob:/bin/sh\n");
        assert_eq!(users.uid("root").unwrap(), 0);
        assert_eq!(users.uid("bob").unwrap(), 1000);
        assert_eq!(users.uid("4294967294").unwrap(), 4294967294);
        assert_eq!(users.name(1000), Some("bob"));
        assert_eq!(users.name(7), None);
    }

    #[test]
    fn the_first_line_wins() {
        let users = UserNames::parse(b"root:x:0:0\ntoor:x:0:0\nroot:x:5:5\n");
        assert_eq!(users.name(0), Some("root"));
        assert_eq!(users.uid("toor").unwrap(), 0);
        assert_eq!(users.uid("root").unwrap(), 0);
    }

    #[test]
    fn an_unknown_name_says_what_works() {
        let error = UserNames::default().uid("bob\x1b").unwrap_err();
        let failure = Failure::of(&error);
        assert_eq!(failure.message, "no user \"bob\\u{1b}\" in /etc/passwd");
        assert!(failure.hint.is_some_and(|hint| hint.contains("id -u")));
        for wrong in ["", "-1", "+5", "1000 ", "99999999999"] {
            assert!(UserNames::default().uid(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn odd_lines_are_passed_over() {
        let text = b"\n:x:1:1\nnouid\nshort:x\nbad:x:one:1\nneg:x:-1:1\n\
            esc\x1b[2J:x:2:2\n\xff\xfe:x:3:3\n+nis:x:4:4\nlast:x:6";
        let users = UserNames::parse(text);
        assert_eq!(users.by_uid, HashMap::from([(6, "last".to_owned())]));
    }

    #[test]
    fn a_missing_file_has_no_users() {
        assert!(UserNames::at(Path::new("/nonexistent/passwd")).by_uid.is_empty());
    }
}
