//! The cryptography under TLS: which library, and in which form.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

/// aws-lc-rs, in its FIPS form when built with the feature `fips`.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        #[cfg(feature = "fips")]
        let provider = rustls::crypto::default_fips_provider();
        #[cfg(not(feature = "fips"))]
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}
