//! The server's own certificate authority.
//!
//! Made once in `<data-dir>/pki` (`ca.key`, `ca.crt`, mode 0600) for a century; everything
//! else, the server's certificate too, is signed when it is needed, for a while, and kept nowhere.

use crate::identity::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long before it is signed a certificate begins, at the most.
const SKEW: Duration = Duration::from_secs(300);
/// As long as the authority itself.
pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key or certificate cannot be made or read.
    #[error(
        "certificate authority in {path}: {source}; if it is damaged, remove both files to make a new one"
    )]
    Certificate {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Credential {
    /// PEM.
    pub certificate: String,
    /// PEM (PKCS#8).
    pub key: String,
}

/// The certificate authority.
pub struct Pki {
    dir: PathBuf,
    ca: String,
    key: KeyPair,
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { path, source }
}

/// Writes a file whole or not at all, readable by its owner only.
fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let new = path.with_extension("new");
    let write = || {
        let mut f = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        f.write_all(text.as_bytes())?;
        f.sync_all()?;
        std::fs::rename(&new, path)?;
        path.parent()
            .map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
    };
    write().map_err(file(path))
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "skysail-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params
}

impl Pki {
    /// Reads the authority below `data_dir`, or makes it. The key is written first: a certificate without its key
    /// never exists.
    pub fn open(data_dir: &Path) -> Result<Self, PkiError> {
        let dir = data_dir.join("pki");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(file(&dir))?;
        // Of several servers that start at once over one directory, one makes it.
        let lock_path = dir.join("lock");
        let lock = std::fs::File::create(&lock_path).map_err(file(&lock_path))?;
        lock.lock().map_err(file(&lock_path))?;
        let (key_path, ca_path) = (dir.join("ca.key"), dir.join("ca.crt"));
        let failed = |source| PkiError::Certificate {
            path: dir.clone(),
            source,
        };
        let key = match std::fs::read_to_string(&key_path) {
            Ok(text) => KeyPair::from_pem(&text).map_err(failed)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(failed)?;
                write(&key_path, &key.serialize_pem())?;
                key
            }
            Err(e) => return Err(file(&key_path)(e)),
        };
        let ca = match std::fs::read_to_string(&ca_path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let text = ca_params().self_signed(&key).map_err(failed)?.pem();
                write(&ca_path, &text)?;
                text
            }
            Err(e) => return Err(file(&ca_path)(e)),
        };
        Ok(Self { dir, ca, key })
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        lifetime: Duration,
    ) -> Result<Credential, PkiError> {
        let failed = |source| PkiError::Certificate {
            path: self.dir.clone(),
            source,
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let (now, epoch) = (now.unwrap_or_default(), date_time_ymd(1970, 1, 1));
        // Clocks of other machines may be behind a little.
        params.not_before = epoch + now.saturating_sub(SKEW.min(lifetime / 10));
        params.not_after =
            (epoch + now.saturating_add(lifetime.min(LONGEST))).min(ca_params().not_after);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        // The authority's parameters are fixed, so its certificate need not be parsed to sign with it.
        let issuer = Issuer::new(ca_params(), &self.key);
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(Credential {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A client certificate for so long: CN is the user, each O a group.
    pub fn client(&self, identity: &Identity, lifetime: Duration) -> Result<Credential, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, identity.user.as_str());
        for group in &identity.groups {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group.as_str());
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, lifetime)
    }

    /// A server certificate for names and addresses, for so long.
    pub fn server(&self, names: &[String], lifetime: Duration) -> Result<Credential, PkiError> {
        let failed = |source| PkiError::Certificate {
            path: self.dir.clone(),
            source,
        };
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "skysail");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, lifetime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn servers_that_start_at_once_agree_on_one_authority() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let open = || Pki::open(dir.path()).expect("opened").ca().to_owned();
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            let ca = threads.into_iter().map(|t| t.join().expect("no panic"));
            ca.collect()
        });
        assert!(all.iter().all(|ca| *ca == all[0]));
    }

    #[test]
    fn the_authority_is_made_once_and_kept_from_others() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let made = Pki::open(dir.path()).expect("made");
        let found = Pki::open(dir.path()).expect("found");
        assert_eq!(made.ca(), found.ca());
        for file in ["ca.key", "ca.crt"] {
            let mode = std::fs::metadata(dir.path().join("pki").join(file))
                .expect("there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        std::fs::write(dir.path().join("pki/ca.key"), "nonsense").expect("written");
        let refused = Pki::open(dir.path()).err().expect("refused").to_string();
        assert!(refused.contains("remove both files"), "{refused}");
    }
}
