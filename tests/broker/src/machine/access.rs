//! API keys and what they may do (docs/protocol/preamble.md 1.13).

use std::collections::BTreeMap;

use fibp_proto::Secret;
use fibp_proto::admin::{Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, Permission, PermissionKind};
use subtle::ConstantTimeEq;

use super::ids::IdSource;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// Authentication is off.
    Anyone,
    /// Has not authenticated yet.
    Nobody,
    /// The bootstrap key.
    Bootstrap,
    /// A stored key, by its id.
    Key(String),
}

#[derive(Debug, Clone)]
struct StoredKey {
    info: ApiKeyInfo,
    token: Secret,
    permissions: Vec<Permission>,
}

/// The stored keys.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyRing {
    keys: BTreeMap<String, StoredKey>,
}

/// A key's standing in permission checks.
enum Standing<'a> {
    Unrestricted,
    Granted(&'a [Permission]),
}

impl KeyRing {
    pub(super) fn create(&mut self, ids: &mut IdSource, spec: ApiKeySpec, wall_ms: u64) -> CreatedApiKey {
        let key_id = ids.random().to_string();
        let token = ids.token();
        let created = CreatedApiKey::new(key_id.clone(), token.as_str(), spec.superadmin);
        let info = ApiKeyInfo::default()
            .key_id(key_id.clone())
            .name(spec.name)
            .created_at_ms(wall_ms)
            .expires_at_ms(spec.expires_at_ms)
            .superadmin(spec.superadmin);
        let stored = StoredKey {
            info,
            token: token.into(),
            permissions: Vec::new(),
        };
        self.keys.insert(key_id, stored);
        created
    }

    pub(super) fn revoke(&mut self, key_id: &str) -> bool {
        self.keys.remove(key_id).is_some()
    }

    pub(super) fn list(&self) -> Vec<ApiKeyInfo> {
        self.keys.values().map(|key| key.info.clone()).collect()
    }

    pub(super) fn set_acl(&mut self, key_id: &str, permissions: Vec<Permission>) -> bool {
        self.keys
            .get_mut(key_id)
            .map(|key| key.permissions = permissions)
            .is_some()
    }

    pub(super) fn acl(&self, key_id: &str) -> Option<Acl> {
        self.keys.get(key_id).map(|key| {
            Acl::default()
                .key_id(key_id.to_owned())
                .permissions(key.permissions.clone())
                .superadmin(key.info.superadmin)
        })
    }

    /// The id of the unexpired key that `token` is.
    pub(super) fn identify(&self, token: &Secret, wall_ms: u64) -> Option<&str> {
        self.keys
            .values()
            .find(|key| is_same_key(&key.token, token))
            .filter(|key| key.info.expires_at_ms == 0 || wall_ms <= key.info.expires_at_ms)
            .map(|key| key.info.key_id.as_str())
    }

    pub(super) fn is_superadmin(&self, identity: &Identity) -> bool {
        matches!(self.standing(identity), Standing::Unrestricted)
    }

    /// Whether `identity` may do `kind` on `queue`.
    pub(super) fn allows(&self, identity: &Identity, kind: &PermissionKind, queue: &str) -> bool {
        self.any_grant(identity, |grant| grant.kind == *kind && covers(&grant.pattern, queue))
    }

    /// Whether `identity` administers every queue.
    pub(super) fn administers_all(&self, identity: &Identity) -> bool {
        self.any_grant(identity, |grant| {
            grant.kind == PermissionKind::Admin && grant.pattern == "*"
        })
    }

    /// Whether `identity` administers anything at all.
    pub(super) fn administers_something(&self, identity: &Identity) -> bool {
        self.any_grant(identity, |grant| grant.kind == PermissionKind::Admin)
    }

    /// Whether `identity` may grant rights on `pattern`.
    pub(super) fn may_grant(&self, identity: &Identity, pattern: &str) -> bool {
        self.any_grant(identity, |grant| {
            grant.kind == PermissionKind::Admin && contains(&grant.pattern, pattern)
        })
    }

    fn any_grant(&self, identity: &Identity, matches: impl Fn(&Permission) -> bool) -> bool {
        match self.standing(identity) {
            Standing::Unrestricted => true,
            Standing::Granted(grants) => grants.iter().any(matches),
        }
    }

    fn standing(&self, identity: &Identity) -> Standing<'_> {
        match identity {
            Identity::Anyone | Identity::Bootstrap => Standing::Unrestricted,
            Identity::Nobody => Standing::Granted(&[]),
            Identity::Key(key_id) => match self.keys.get(key_id) {
                Some(key) if key.info.superadmin => Standing::Unrestricted,
                Some(key) => Standing::Granted(&key.permissions),
                // Revoked while connected: still authenticated, but without rights.
                None => Standing::Granted(&[]),
            },
        }
    }

    /// The record under `auth:key:<id>` in the configuration store. Its text is not specified.
    pub(super) fn record(&self, key_id: &str) -> Option<String> {
        let info = &self.keys.get(key_id)?.info;
        Some(format!(
            "{{\"key_id\":{},\"name\":{},\"created_at_ms\":{},\"expires_at_ms\":{},\"is_superadmin\":{}}}",
            json_string(&info.key_id),
            json_string(&info.name),
            info.created_at_ms,
            info.expires_at_ms,
            info.superadmin
        ))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }
}

/// Compares without telling by the time it takes how much was right.
pub(super) fn is_same_key(known: &Secret, given: &Secret) -> bool {
    known.expose().as_bytes().ct_eq(given.expose().as_bytes()).into()
}

fn json_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if u32::from(char) < 0x20 => quoted.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether `pattern` (`*`, `prefix.*` or an exact name) covers `queue`.
fn covers(pattern: &str, queue: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) if prefix.ends_with('.') => queue.starts_with(prefix),
        _ => pattern == queue,
    }
}

/// Whether all that `inner` covers is covered by `outer`.
fn contains(outer: &str, inner: &str) -> bool {
    match inner.strip_suffix(".*") {
        Some(prefix) => {
            outer == inner || outer == "*" || (outer.ends_with(".*") && covers(outer, &format!("{prefix}.")))
        }
        None if inner == "*" => outer == "*",
        None => covers(outer, inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_names() {
        for (pattern, queue, expected) in [
            ("*", "anything", true),
            ("*", "", true),
            ("orders.*", "orders.eu", true),
            ("orders.*", "orders.", true),
            ("orders.*", "orders", false),
            ("orders.*", "ordersx", false),
            ("orders", "orders", true),
            ("orders", "orders.eu", false),
            ("ord*", "orders", false),
        ] {
            assert_eq!(covers(pattern, queue), expected, "{pattern} {queue}");
        }
    }

    #[test]
    fn patterns_contain_patterns() {
        for (outer, inner, expected) in [
            ("*", "*", true),
            ("*", "a.*", true),
            ("a.*", "*", false),
            ("a.*", "a.*", true),
            ("a.*", "a.b.*", true),
            ("a.b.*", "a.*", false),
            ("a.*", "a.b", true),
            ("a", "a", true),
            ("a", "a.*", false),
            ("a.*", "ab.*", false),
        ] {
            assert_eq!(contains(outer, inner), expected, "{outer} {inner}");
        }
    }

    #[test]
    fn records_are_json() {
        assert_eq!(json_string("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
