// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The probed files, each watched for writers.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::write_watch::WriteWatch;
use crate::find::host::object_file::ObjectFile;
use crate::probe::links::ProbedFileKey;

/// A probed file.
pub struct WatchedFile {
    pub key: ProbedFileKey,
    /// The path in the mount namespace of its process, for messages.
    path: PathBuf,
    /// Lets writers go on when it is dropped: after the links of the file.
    watch: WriteWatch,
}

impl WatchedFile {
    /// Lets writers go on. To be called when the links of the file are closed.
    pub fn into_path(self) -> PathBuf {
        drop(self.watch);
        self.path
    }
}

/// The probed files.
#[derive(Default)]
pub struct WatchedFiles {
    files: Vec<WatchedFile>,
    keys: u32,
}

impl WatchedFiles {
    /// Starts to watch a file that was examined.
    ///
    /// # Errors
    /// It was changed since it was opened, or cannot be watched.
    pub fn add(&mut self, object: &ObjectFile) -> Result<ProbedFileKey> {
        let watch = WriteWatch::start(&object.file)?;
        ensure!(
            object.is_unchanged()? && !watch.is_written(),
            "the file was changed while it was examined"
        );
        let key = self.new_key();
        let path = object.path.clone();
        self.files.push(WatchedFile { key, path, watch });
        Ok(key)
    }

    /// A key for a file that is not watched.
    pub fn new_key(&mut self) -> ProbedFileKey {
        self.keys += 1;
        ProbedFileKey(self.keys)
    }

    /// Takes a file out that was written, or is about to be.
    pub fn take_written(&mut self) -> Option<WatchedFile> {
        let index = self.files.iter().position(|file| file.watch.is_written())?;
        Some(self.files.swap_remove(index))
    }

    /// Takes all files out.
    pub fn take_all(&mut self) -> Vec<WatchedFile> {
        std::mem::take(&mut self.files)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn file_that_changed_since_it_was_opened_is_refused() {
        let path = std::env::temp_dir().join(format!("watched-files-{}", std::process::id()));
        fs::write(&path, "old").expect("a new file");
        let object = ObjectFile::at(&path).expect("an open file");
        let mut files = WatchedFiles::default();
        files.add(&object).expect("an unchanged file");
        files.take_all();
        // The clock of the file system ticks every few milliseconds.
        while object.is_unchanged().expect("a readable file") {
            fs::write(&path, "new").expect("a written file");
        }
        let error = files.add(&object).expect_err("a changed file");
        fs::remove_file(&path).expect("no more file");
        assert_eq!(error.to_string(), "the file was changed while it was examined");
        assert!(files.take_all().is_empty());
    }
}
