//! Tokens of service accounts beyond those of a plain TokenRequest: bound to an object, or with any time of expiry.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Secret, ServiceAccount as Account},
};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use rcgen::KeyPair;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::{Value, json};

use super::{Cluster, ServiceAccount, cluster::ISSUER};

/// The digits of the encoding of tokens.
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Cluster {
    /// Creates a Secret of this name beside the account, and returns a token that is valid while the Secret exists.
    pub async fn bound_token(&self, account: &ServiceAccount, secret: &str) -> String {
        let client = self.client().await;
        let metadata = ObjectMeta { name: Some(secret.to_owned()), ..ObjectMeta::default() };
        let object = Secret { metadata, string_data: Some(BTreeMap::new()), ..Secret::default() };
        let secrets = Api::<Secret>::namespaced(client.clone(), &account.namespace);
        let stored = secrets.create(&PostParams::default(), &object).await.expect("a Secret");
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(secret.to_owned()),
            uid: stored.metadata.uid,
        };
        let spec = TokenRequestSpec { bound_object_ref: Some(bound), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let accounts = Api::<Account>::namespaced(client, &account.namespace);
        let answer = accounts.create_token_request(&account.name, &PostParams::default(), &request).await;
        answer.expect("a token").status.and_then(|status| status.token).expect("the answer contains it")
    }

    /// Deletes the Secret of [`Cluster::bound_token`].
    pub async fn delete_secret(&self, namespace: &str, name: &str) {
        let secrets = Api::<Secret>::namespaced(self.client().await, namespace);
        secrets.delete(name, &DeleteParams::default()).await.expect("the Secret exists");
    }

    /// Deletes a service account; its tokens are not valid any more.
    pub async fn delete_account(&self, account: &ServiceAccount) {
        let accounts = Api::<Account>::namespaced(self.client().await, &account.namespace);
        accounts.delete(&account.name, &DeleteParams::default()).await.expect("the account exists");
    }

    /// Returns a token of the account that expires this number of seconds from now, before now if it is negative. A
    /// TokenRequest gives none of less than ten minutes, so this signs one with the API server's key.
    pub async fn signed_token(&self, account: &ServiceAccount, seconds: i64) -> String {
        let accounts = Api::<Account>::namespaced(self.client().await, &account.namespace);
        let uid = accounts.get(&account.name).await.expect("the account exists").metadata.uid;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
        let now = i64::try_from(now).expect("a time of this age");
        let claims = json!({
            "iss": ISSUER, "aud": [ISSUER], "sub": account.user(),
            "iat": now - 3600, "nbf": now - 3600, "exp": now + seconds,
            "kubernetes.io": {"namespace": account.namespace, "serviceaccount": {"name": account.name, "uid": uid}},
        });
        let signed = format!("{}.{}", part(&json!({"alg": "ES256"})), part(&claims));
        let key = KeyPair::from_pem(&self.signing_key()).expect("a key").serialize_der();
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &random).expect("a P-256 key");
        let signature = key.sign(&random, signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", base64_url(signature.as_ref()))
    }
}

fn part(json: &Value) -> String {
    base64_url(json.to_string().as_bytes())
}

/// Base64 with the alphabet for URLs, without padding.
fn base64_url(bytes: &[u8]) -> String {
    let digits = bytes.chunks(3).flat_map(|chunk| {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(move |digit| BASE64_URL[(bits >> (18 - 6 * digit)) as usize & 63])
    });
    digits.map(char::from).collect()
}

#[test]
fn base64_has_no_padding() {
    for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("\u{3ff}", "z78")]
    {
        assert_eq!(base64_url(bytes.as_bytes()), text);
    }
}
