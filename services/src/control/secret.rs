//! Secrets in inputs: they can be read and sent on, but neither shown nor logged.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serializer};

/// A file of an argument may be this large.
const MAX_FILE: u64 = 16 << 20;

/// A secret in the input of an operation.
///
/// It has no `Serialize`: the field of an input names [`Secret::reveal`], which the command line
/// needs to send what it was given.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The secret, for the vault.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Writes the secret out: for the client that sends it, with `serialize_with`.
    pub fn reveal<S: Serializer>(secret: &Self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    /// Reads an argument: the secret itself, `@file`, or `@-` for standard input.
    pub fn from_argument(text: &str) -> Result<Self, io::Error> {
        text_or_file(text).map(|text| Self(text.into()))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Into::into)
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "password", "writeOnly": true })
    }
}

/// Reads an argument: the text itself, `@file` for a file's content, or `@-` for standard input.
///
/// For command lines only: the server must never read a file that a caller names.
pub fn text_or_file(text: &str) -> Result<String, io::Error> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let mut content = String::new();
    if path == "-" {
        io::stdin().lock().take(MAX_FILE).read_to_string(&mut content)?;
    } else {
        let file = std::fs::File::open(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{path} can't be read: {error}")))?;
        file.take(MAX_FILE).read_to_string(&mut content)?;
    }
    Ok(content)
}
