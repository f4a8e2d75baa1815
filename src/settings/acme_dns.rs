//! The settings of DNS-01: who puts challenges into the DNS.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use portcullis_layers::HostName;
use portcullis_services::acme::dns::{
    Algorithm, DnsError, DnsProvider, Exec, InvalidKey, Resolvers, Rfc2136, Server, TsigKey,
};
use secrecy::SecretString;

use super::oauth::seconds;

/// No file of a secret is longer, in bytes.
const LONGEST: u64 = 4096;

/// Who changes the DNS, so that wildcards can have certificates.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Certificates by DNS")]
pub struct AcmeDns {
    /// Who puts challenges into the DNS; without one there are no certificates for wildcards.
    #[arg(long = "acme-dns-provider", env = "PORTCULLIS_ACME_DNS_PROVIDER", value_enum)]
    pub provider: Option<AcmeDnsProvider>,

    /// The resolvers that are asked where CNAME records of _acme-challenge names lead, where a zone's servers are, and by
    /// `acme doctor`: ADDRESS or ADDRESS:PORT.
    /// Comma-separated. Default: those of /etc/resolv.conf.
    #[arg(long = "acme-dns-resolvers", env = "PORTCULLIS_ACME_DNS_RESOLVERS", value_delimiter = ',')]
    pub resolvers: Vec<AcmeDnsResolver>,

    /// The DNS server that takes updates (RFC 2136): HOST or ADDRESS, with :PORT if it is not 53.
    #[arg(long = "acme-dns-rfc2136-server", env = "PORTCULLIS_ACME_DNS_RFC2136_SERVER")]
    pub server: Option<Server>,

    /// The zone that is updated. Default: the server is asked.
    #[arg(long = "acme-dns-rfc2136-zone", env = "PORTCULLIS_ACME_DNS_RFC2136_ZONE")]
    pub zone: Option<HostName>,

    /// The name of the key that updates are signed with (TSIG, RFC 8945).
    #[arg(long = "acme-dns-rfc2136-tsig-name", env = "PORTCULLIS_ACME_DNS_RFC2136_TSIG_NAME")]
    pub tsig_name: Option<String>,

    /// That key's secret, in Base64.
    #[arg(
        long = "acme-dns-rfc2136-tsig-secret",
        env = "PORTCULLIS_ACME_DNS_RFC2136_TSIG_SECRET",
        hide_env_values = true
    )]
    pub tsig_secret: Option<SecretString>,

    /// A file with that secret, instead.
    #[arg(long = "acme-dns-rfc2136-tsig-secret-file", env = "PORTCULLIS_ACME_DNS_RFC2136_TSIG_SECRET_FILE")]
    pub tsig_secret_file: Option<PathBuf>,

    /// How that key signs: hmac-sha256 or hmac-sha512.
    #[arg(
        long = "acme-dns-rfc2136-tsig-algorithm",
        env = "PORTCULLIS_ACME_DNS_RFC2136_TSIG_ALGORITHM",
        default_value_t = Algorithm::HmacSha256
    )]
    pub tsig_algorithm: Algorithm,

    /// The program that changes the DNS, by its full path. It is run as PROGRAM present NAME VALUE and PROGRAM cleanup
    /// NAME VALUE.
    #[arg(long = "acme-dns-exec", env = "PORTCULLIS_ACME_DNS_EXEC")]
    pub exec: Option<PathBuf>,

    /// Seconds that one run of it may take.
    #[arg(long = "acme-dns-exec-timeout", env = "PORTCULLIS_ACME_DNS_EXEC_TIMEOUT", default_value = "120", value_parser = seconds::<1, 3600>)]
    pub exec_timeout: Duration,
}

/// A way to change the DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AcmeDnsProvider {
    /// Updates of a DNS server (RFC 2136).
    Rfc2136,
    /// A program.
    Exec,
}

/// The address of a resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcmeDnsResolver(pub SocketAddr);

/// The text is no [`AcmeDnsResolver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an IP address, with :PORT if it is not 53")]
pub struct InvalidAcmeDnsResolver;

impl FromStr for AcmeDnsResolver {
    type Err = InvalidAcmeDnsResolver;

    fn from_str(text: &str) -> Result<Self, InvalidAcmeDnsResolver> {
        let text = text.trim();
        let alone = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
        text.parse().or_else(|_| alone()).map(Self).map_err(|_| InvalidAcmeDnsResolver)
    }
}

/// Why there is no provider although one is wanted.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAcmeDns {
    /// A setting is missing.
    #[error("PORTCULLIS_ACME_DNS_PROVIDER={provider} needs {setting}")]
    Missing {
        /// The provider.
        provider: &'static str,
        /// What it needs.
        setting: &'static str,
    },
    /// The secret is there twice.
    #[error(
        "set one of PORTCULLIS_ACME_DNS_RFC2136_TSIG_SECRET and PORTCULLIS_ACME_DNS_RFC2136_TSIG_SECRET_FILE"
    )]
    Twice,
    /// The file with the secret can't be read.
    #[error("PORTCULLIS_ACME_DNS_RFC2136_TSIG_SECRET_FILE: {path} can't be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The key can't be one.
    #[error("PORTCULLIS_ACME_DNS_RFC2136_TSIG_*: {0}")]
    Key(InvalidKey),
    /// The zone is no name.
    #[error("PORTCULLIS_ACME_DNS_RFC2136_ZONE: {0}")]
    Zone(DnsError),
    /// The program is looked for nowhere: whoever sets the folder or the path would choose it.
    #[error("PORTCULLIS_ACME_DNS_EXEC: {0} is no full path")]
    Relative(PathBuf),
}

impl AcmeDns {
    /// The provider, if one is wanted.
    ///
    /// # Errors
    ///
    /// When its settings are not complete, or can't be.
    pub fn provider(&self) -> Result<Option<Arc<dyn DnsProvider>>, InvalidAcmeDns> {
        Ok(match self.provider {
            None => None,
            Some(AcmeDnsProvider::Rfc2136) => Some(Arc::new(self.rfc2136()?)),
            Some(AcmeDnsProvider::Exec) => Some(Arc::new(self.exec()?)),
        })
    }

    fn rfc2136(&self) -> Result<Rfc2136, InvalidAcmeDns> {
        let missing = |setting| InvalidAcmeDns::Missing { provider: "rfc2136", setting };
        let server = self.server.clone().ok_or_else(|| missing("PORTCULLIS_ACME_DNS_RFC2136_SERVER"))?;
        let name =
            self.tsig_name.as_deref().ok_or_else(|| missing("PORTCULLIS_ACME_DNS_RFC2136_TSIG_NAME"))?;
        let secret = match (&self.tsig_secret, &self.tsig_secret_file) {
            (Some(secret), None) => secret.clone(),
            (None, Some(path)) => {
                read(path).map_err(|source| InvalidAcmeDns::File { path: path.clone(), source })?
            }
            (Some(_), Some(_)) => return Err(InvalidAcmeDns::Twice),
            (None, None) => return Err(missing("PORTCULLIS_ACME_DNS_RFC2136_TSIG_SECRET")),
        };
        let key = TsigKey::new(name, self.tsig_algorithm, &secret).map_err(InvalidAcmeDns::Key)?;
        let provider = Rfc2136::new(server, key).with_resolvers(self.resolvers());
        match &self.zone {
            Some(zone) => provider.in_zone(zone.as_str()).map_err(InvalidAcmeDns::Zone),
            None => Ok(provider),
        }
    }

    fn exec(&self) -> Result<Exec, InvalidAcmeDns> {
        let missing = InvalidAcmeDns::Missing { provider: "exec", setting: "PORTCULLIS_ACME_DNS_EXEC" };
        let program = self.exec.clone().ok_or(missing)?;
        if !program.is_absolute() {
            return Err(InvalidAcmeDns::Relative(program));
        }
        Ok(Exec::new(program).with_limit(self.exec_timeout).with_resolvers(self.resolvers()))
    }

    /// Who is asked how the rest of the world sees a name.
    pub fn resolvers(&self) -> Resolvers {
        match &self.resolvers[..] {
            [] => Resolvers::System,
            list => Resolvers::Fixed(list.iter().map(|resolver| resolver.0).collect()),
        }
    }
}

/// The secret in a file.
fn read(path: &Path) -> std::io::Result<SecretString> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    const SECRET: &str = "VGhpcyBrZXkgaXMgZm9yIHRlc3RzIG9ubHkuIDMyIGI=";

    fn settings(args: &[&str]) -> Result<AcmeDns, String> {
        let command = AcmeDns::augment_args(clap::Command::new("serve").no_binary_name(true));
        let matches = command.try_get_matches_from(args).map_err(|error| error.to_string())?;
        AcmeDns::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    fn provider(args: &[&str]) -> Result<String, String> {
        let provider = settings(args)?.provider().map_err(|error| error.to_string())?;
        Ok(provider.map(|provider| format!("{provider:?}")).unwrap_or_default())
    }

    #[test]
    fn without_a_provider_there_is_none() {
        assert_eq!(provider(&[]), Ok(String::new()));
        assert_eq!(provider(&["--acme-dns-exec=/bin/true"]), Ok(String::new()));
        assert!(provider(&["--acme-dns-provider=manual"]).is_err());
    }

    #[test]
    fn updates_need_a_server_and_a_key() {
        let all = [
            "--acme-dns-provider=rfc2136",
            "--acme-dns-rfc2136-server=ns1.example.com",
            "--acme-dns-rfc2136-tsig-name=acme",
            &format!("--acme-dns-rfc2136-tsig-secret={SECRET}"),
        ];
        let shown = provider(&all).unwrap();
        assert!(
            shown.contains("ns1.example.com") && shown.contains("acme.") && !shown.contains(SECRET),
            "{shown}"
        );
        assert!(!format!("{:?}", settings(&all)).contains(SECRET));
        for (count, needed) in [(1, "SERVER"), (2, "TSIG_NAME"), (3, "TSIG_SECRET")] {
            let error = provider(&all[..count]).unwrap_err();
            let expected =
                format!("PORTCULLIS_ACME_DNS_PROVIDER=rfc2136 needs PORTCULLIS_ACME_DNS_RFC2136_{needed}");
            assert_eq!(error, expected);
        }
        let short = [&all[..3], &["--acme-dns-rfc2136-tsig-secret=c2hvcnQ="]].concat();
        assert_eq!(
            provider(&short).unwrap_err(),
            "PORTCULLIS_ACME_DNS_RFC2136_TSIG_*: the secret is shorter than 16 bytes"
        );
        for wrong in [
            "--acme-dns-rfc2136-tsig-algorithm=hmac-md5",
            "--acme-dns-rfc2136-zone=a b",
            "--acme-dns-rfc2136-server=a:b",
            "--acme-dns-resolvers=ns1.example.com",
        ] {
            assert!(provider(&[&all[..], &[wrong]].concat()).is_err(), "{wrong}");
        }
        let more = ["--acme-dns-rfc2136-zone=example.com", "--acme-dns-resolvers=192.0.2.1,[2001:db8::1]:54"];
        let shown = provider(&[&all[..], &more].concat()).unwrap();
        assert!(shown.contains("192.0.2.1:53") && shown.contains("[2001:db8::1]:54"), "{shown}");
    }

    #[test]
    fn the_secret_may_be_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{SECRET}\n")).unwrap();
        let named = format!("--acme-dns-rfc2136-tsig-secret-file={}", file.path().display());
        let most = [
            "--acme-dns-provider=rfc2136",
            "--acme-dns-rfc2136-server=::1",
            "--acme-dns-rfc2136-tsig-name=a",
        ];
        assert!(provider(&[&most[..], &[&named]].concat()).is_ok());
        let given = format!("--acme-dns-rfc2136-tsig-secret={SECRET}");
        let both = [&most[..], &[&named, &given]].concat();
        assert!(provider(&both).unwrap_err().starts_with("set one of"));
        let gone = [&most[..], &["--acme-dns-rfc2136-tsig-secret-file=/nowhere/secret"]].concat();
        assert!(provider(&gone).unwrap_err().ends_with("/nowhere/secret can't be read"));
    }

    #[test]
    fn a_program_has_a_full_path() {
        assert!(
            provider(&["--acme-dns-provider=exec"]).unwrap_err().ends_with("needs PORTCULLIS_ACME_DNS_EXEC")
        );
        let error = provider(&["--acme-dns-provider=exec", "--acme-dns-exec=hook"]).unwrap_err();
        assert_eq!(error, "PORTCULLIS_ACME_DNS_EXEC: hook is no full path");
        let whole = ["--acme-dns-provider=exec", "--acme-dns-exec=/etc/hook", "--acme-dns-exec-timeout=30"];
        let shown = provider(&whole).unwrap();
        assert!(shown.contains("/etc/hook") && shown.contains("30s"), "{shown}");
    }
}
