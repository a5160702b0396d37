//! The Collector's maps of components.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Invalid, unknown};

/// One kind of component (a receiver, an exporter, ...) and its settings.
pub trait Component: Sized {
    /// The kinds that exist, as they are written before the `/`.
    const KINDS: &'static [&'static str];

    /// What it is, in a word.
    const NOUN: &'static str;

    /// Reads the settings of `kind`, which is one of [`Component::KINDS`].
    fn deserialize_kind<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error>;
}

/// The Collector's map of `kind` or `kind/name` to settings, in the order of the keys.
#[derive(Debug, Clone)]
pub struct Components<T>(pub BTreeMap<String, T>);

impl<T> Default for Components<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Component> Components<T> {
    /// The settings of the component with this full name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.get(name)
    }

    /// Names and settings, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, settings)| (name.as_str(), settings))
    }

    /// That no component is called `name`, with the nearest one that is.
    pub fn unknown(&self, key: impl Into<String>, name: &str) -> Invalid {
        let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
        Invalid::new(key, unknown(T::NOUN, name, &known))
    }
}

impl<'de, T: Component> Deserialize<'de> for Components<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor<T>(PhantomData<T>);

        impl<'de, T: Component> Visitor<'de> for MapVisitor<T> {
            type Value = Components<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map whose keys are one of {} (or KIND/NAME)", T::KINDS.join(", "))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Components::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let kind = name.split_once('/').map_or(name.as_str(), |(kind, _)| kind);
                    if !T::KINDS.contains(&kind) {
                        let message = unknown(T::NOUN, kind, T::KINDS);
                        map.next_value_seed(Refuse(message))?;
                        continue;
                    }
                    let settings = T::deserialize_kind(kind, &mut map)?;
                    if out.insert(name.clone(), settings).is_some() {
                        return Err(A::Error::custom(format!("`{name}` is set twice; keep one of them")));
                    }
                }
                Ok(Components(out))
            }
        }

        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

/// Refuses the value of a key, so that the mistake is the key's and not its section's.
struct Refuse(String);

impl<'de> DeserializeSeed<'de> for Refuse {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<(), D::Error> {
        Err(D::Error::custom(self.0))
    }
}

/// Reads settings that may be left empty (`debug:` with nothing behind it), which then have their defaults.
pub fn settings_or_default<'de, T, A>(map: &mut A) -> Result<T, A::Error>
where
    T: Deserialize<'de> + Default,
    A: MapAccess<'de>,
{
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}
