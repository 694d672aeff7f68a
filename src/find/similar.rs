// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names that are similar to a mistyped one.

/// At most `n` of `candidates` that are similar to `wanted`, ignoring case, best first and each once. Similar
/// names are a few edits away, contain `wanted`, or match without leading parts: `Proxy::read` is similar to
/// `net::Proxy::read`.
pub fn similar<T: AsRef<str>>(
    wanted: &str,
    candidates: impl IntoIterator<Item = T>,
    n: usize,
) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let parts = wanted.matches("::").count() + 1;
    let near = candidates.into_iter().filter_map(|candidate| {
        let name = candidate.as_ref();
        let forms = [Some(name), last_parts(name, parts)].into_iter().flatten();
        let nearest = forms.filter_map(|form| distance(&wanted, form)).min();
        Some((nearest?, name.len(), name.to_owned()))
    });
    let mut near: Vec<(usize, usize, String)> = near.collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(n).map(|(.., name)| name).collect()
}

/// The last `n` parts of a name that has more of them, with `::` in between.
fn last_parts(name: &str, n: usize) -> Option<&str> {
    let (at, colons) = name.rmatch_indices("::").nth(n - 1)?;
    name.get(at + colons.len()..)
}

/// The distance between `candidate` and `wanted` (in lower case), or `None` if they are not similar: the edit
/// distance, or less if one contains the other.
fn distance(wanted: &str, candidate: &str) -> Option<usize> {
    /// Shorter names are part of too many others.
    const MIN_PART: usize = 3;
    let candidate = candidate.to_lowercase();
    if wanted.len() >= MIN_PART && candidate.contains(wanted) {
        let extra = candidate.len() - wanted.len();
        return Some(if candidate.starts_with(wanted) {
            extra.min(2)
        } else {
            extra.min(3)
        });
    }
    if candidate.len() >= MIN_PART && candidate.len() * 2 >= wanted.len() && wanted.contains(&candidate) {
        return Some((wanted.len() - candidate.len()).min(3));
    }
    // Names that have nothing in common are not similar.
    let limit = wanted.len().div_ceil(3).min(wanted.len().saturating_sub(1));
    if wanted.len().abs_diff(candidate.len()) > limit {
        return None;
    }
    Some(strsim::damerau_levenshtein(wanted, &candidate)).filter(|&distance| distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names_come_first() {
        let names = [
            "free",
            "malloc",
            "mallopt",
            "__libc_malloc",
            "Malloc",
            "calloc",
            "malloc",
            "realpath",
        ];
        assert_eq!(similar("malloc", names, 3), ["Malloc", "malloc", "calloc"]);
        assert_eq!(similar("libc_malloc", names, 1), ["__libc_malloc"]);
        assert_eq!(similar("mallok", names, 2), ["Malloc", "malloc"]);
        assert_eq!(
            similar("Proxy::raed", ["net::Proxy::read", "raed"], 2),
            ["net::Proxy::read"]
        );
        assert_eq!(similar("frobnicate", names, 3), [""; 0]);
        assert_eq!(similar("", names, 3), [""; 0]);
        assert_eq!(similar("p", ["[", "w", "cp"], 3), [""; 0]);
    }
}
