//! A file with a secret: a path, or a credential that systemd passes to the service.

use std::env;
use std::fmt;
use std::path::PathBuf;

use super::key_file::read_text;
use super::values::{Textual, path, path_correction};
use super::{FileFault, ParseError};

/// The environment variable with the directory of the credentials of `LoadCredential=`.
const VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// The prefix of a path in the credentials directory.
const PREFIX: &str = "$CREDENTIALS_DIRECTORY/";
/// The maximum size: more than a token, a JWT or a seed needs. A larger file is not a secret.
const MAX_CREDENTIAL_BYTES: u64 = 64 << 10;

/// The path of a file with a secret. The variable in the path is expanded when the file is read:
/// only the service has the variable, but other commands load the same configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFile(String);

impl CredentialFile {
    /// Reads the whole file. May block.
    ///
    /// # Errors
    /// If it cannot be read, is too large or not text, or if the variable is not set.
    pub fn read(&self) -> Result<String, FileFault> {
        let path = self.path_among(env::var_os(VARIABLE).map(PathBuf::from))?;
        read_text(&path, MAX_CREDENTIAL_BYTES)
    }

    fn path_among(&self, credentials: Option<PathBuf>) -> Result<PathBuf, FileFault> {
        match (self.0.strip_prefix(PREFIX), credentials) {
            (None, _) => Ok(PathBuf::from(&self.0)),
            (Some(name), Some(directory)) => Ok(directory.join(name)),
            (Some(_), None) => Err(FileFault::NoCredentialsDirectory),
        }
    }
}

/// Accepts any text; paths from a configuration are checked there.
impl From<&str> for CredentialFile {
    fn from(path: &str) -> Self {
        Self(path.into())
    }
}

impl fmt::Display for CredentialFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Textual for Option<CredentialFile> {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = match text {
            "" => None,
            text => {
                path(text)?;
                Some(CredentialFile(text.into()))
            }
        };
        Ok(())
    }

    fn show(&self) -> String {
        self.as_ref().map(CredentialFile::to_string).unwrap_or_default()
    }

    fn allowed(&self) -> String {
        r#"the full path of a file, "$CREDENTIALS_DIRECTORY/NAME" for a credential of the systemd unit, or "" for none"#
            .into()
    }

    fn correction(&self, invalid: &str, _table: &str) -> Option<String> {
        path_correction(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> CredentialFile {
        let mut file = None;
        Textual::read(&mut file, text).unwrap();
        file.unwrap()
    }

    #[test]
    fn a_systemd_credential_resolves_in_the_credentials_directory() {
        let folder = tempfile::tempdir().unwrap();
        let credential = file("$CREDENTIALS_DIRECTORY/server-token");
        let found = credential.path_among(Some(folder.path().into())).unwrap();
        assert_eq!(found, folder.path().join("server-token"));
        let error = credential.path_among(None).unwrap_err();
        assert!(error.to_string().starts_with("CREDENTIALS_DIRECTORY is not set"), "{error}");
        assert_eq!(credential.to_string(), "$CREDENTIALS_DIRECTORY/server-token");
    }

    #[test]
    fn an_oversized_credential_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "hunter2\n").unwrap();
        let credential = file(path.to_str().unwrap());
        assert_eq!(credential.read().unwrap(), "hunter2\n");
        std::fs::write(&path, "x".repeat(MAX_CREDENTIAL_BYTES as usize + 1)).unwrap();
        let error = credential.read().unwrap_err();
        assert!(error.to_string().contains("65536 bytes"), "{error}");
    }
}
