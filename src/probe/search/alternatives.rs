// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names in the braces of a pattern that match nothing. The others are found, so a misspelled one would be dropped
//! without a word.

use std::path::Path;

use anyhow::Result;

use crate::find::elf::ElfFile;
use crate::find::functions;
use crate::find::resolve::ResolvedProbe;
use crate::find::spec::{NamePattern, ProbeSubject};
use crate::find::usdt::{self, UsdtProbe};

/// Alternatives of a spec that matched nothing so far.
pub struct MissingAlternatives {
    /// For USDT probes, the pattern of all providers.
    provider: Option<NamePattern>,
    pub names: Vec<NamePattern>,
}

impl MissingAlternatives {
    /// All alternatives of the names that `subject` stands for.
    pub fn of(subject: &ProbeSubject) -> MissingAlternatives {
        let (provider, names) = match subject {
            ProbeSubject::Function { name, .. } => (None, name.alternatives()),
            ProbeSubject::Usdt { provider, name } => (Some(provider.clone()), name.alternatives()),
            ProbeSubject::Address(_) => (None, Vec::new()),
        };
        MissingAlternatives { provider, names }
    }

    /// A probe was found. This is only what saves most searches: functions have more names.
    pub fn on_found(&mut self, probe: &ResolvedProbe) {
        let names = || probe.aliases.iter().chain([&probe.name]);
        self.names
            .retain(|wanted| !names().any(|name| wanted.matches(name)));
    }

    /// Searches a file for those that are still missing.
    pub fn search(&mut self, elf: &ElfFile, path: &Path) -> Result<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        if let Some(provider) = &self.provider {
            let probes = usdt::probes(elf)?;
            let is_probe = |wanted: &NamePattern, probe: &UsdtProbe| {
                provider.matches(&probe.provider) && wanted.matches(&probe.name)
            };
            self.names
                .retain(|wanted| !probes.iter().any(|probe| is_probe(wanted, probe)));
            return Ok(());
        }
        let patterns: Vec<&NamePattern> = self.names.iter().collect();
        let mut matched = functions::matched(elf, path, &patterns)?.into_iter();
        self.names.retain(|_| matched.next() == Some(false));
        Ok(())
    }
}
