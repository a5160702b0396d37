//! Reading a tree with serde: nothing is the default wherever a default exists, and a mistake knows its path.

use std::fmt;

use serde::de::{
    self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::tree::{Entry, Map, Node, Scalar, Value, boolean};

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Keys and numbers from the node that is read.
    pub(super) path: Vec<String>,
    pub(super) what: What,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A key that is not one of these.
    Key(String, &'static [&'static str]),
    /// A word that is not one of these.
    Word(String, &'static [&'static str]),
    /// A key that must be there.
    Missing(&'static str),
    Other(String),
}

impl Fault {
    fn new(what: What) -> Self {
        Self { path: Vec::new(), what }
    }

    fn at(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.path.join("."), self.what)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Other(message.to_string()))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::Key(field.to_owned(), expected))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::Word(variant.to_owned(), expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::Missing(field))
    }
}

/// A node as serde's deserializer.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a Node);

impl Reader<'_> {
    fn scalar(&self) -> Result<&Scalar, Fault> {
        match &self.0.value {
            Value::Scalar(scalar) => Ok(scalar),
            Value::List(_) => Err(other("a single value is expected here, not a list")),
            Value::Map(_) => Err(other("a single value is expected here, not a section")),
        }
    }

    /// That this is no section.
    pub(super) fn no_section(&self) -> String {
        format!("a section is expected here, not {}: write {{key: value}}", self.is())
    }

    fn is(&self) -> String {
        match &self.0.value {
            Value::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
            Value::Scalar(scalar) => format!("`{}`", scalar.text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a section".to_owned(),
        }
    }
}

fn other(message: impl Into<String>) -> Fault {
    Fault::new(What::Other(message.into()))
}

/// A whole number as YAML writes it.
fn integer(text: &str) -> Option<i128> {
    let text = text.replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let radix = |prefix: &str, radix| Some(i128::from_str_radix(digits.strip_prefix(prefix)?, radix));
    let parsed = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| radix("0b", 2));
    parsed.unwrap_or_else(|| digits.parse()).ok().map(|n| sign * n)
}

fn float(text: &str) -> Option<f64> {
    match text {
        ".inf" | "+.inf" | ".Inf" => Some(f64::INFINITY),
        "-.inf" | "-.Inf" => Some(f64::NEG_INFINITY),
        ".nan" | ".NaN" => Some(f64::NAN),
        _ => text.replace('_', "").parse().ok().filter(|f: &f64| f.is_finite()),
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $kind:ty),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let text = &self.scalar()?.text;
            let number = integer(text).ok_or_else(|| other(format!("{} is not a whole number", self.is())))?;
            let fits = <$kind>::try_from(number)
                .map_err(|_| other(format!("`{text}` must be from {} to {}", <$kind>::MIN, <$kind>::MAX)))?;
            visitor.$visit(fits)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let scalar = match &self.0.value {
            Value::List(list) => return visitor.visit_seq(Elements { list: list.iter(), at: 0 }),
            Value::Map(map) => return visitor.visit_map(Entries::new(map, &[])),
            Value::Scalar(scalar) => scalar,
        };
        if scalar.is_null() {
            return visitor.visit_unit();
        }
        let number = |text: &str| integer(text).and_then(|n| i64::try_from(n).ok());
        match scalar {
            Scalar { text, plain: false } => visitor.visit_str(text),
            Scalar { text, .. } => match (boolean(text), number(text), float(text)) {
                (Some(value), ..) => visitor.visit_bool(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, Some(value)) => visitor.visit_f64(value),
                _ => visitor.visit_str(text),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let value = boolean(&self.scalar()?.text);
        visitor.visit_bool(value.ok_or_else(|| other(format!("{} is neither true nor false", self.is())))?)
    }

    numbers!(
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64
    );

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let number =
            float(&self.scalar()?.text).ok_or_else(|| other(format!("{} is not a number", self.is())))?;
        visitor.visit_f64(number)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let scalar = self.scalar()?;
        if scalar.is_null() {
            return Err(other("a value is missing here"));
        }
        visitor.visit_str(&scalar.text)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::List(list) => visitor.visit_seq(Elements { list: list.iter(), at: 0 }),
            _ if self.0.is_null() => visitor.visit_seq(Elements { list: [].iter(), at: 0 }),
            _ => Err(other(format!("a list is expected here, not {}: write [a, b]", self.is()))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::Map(map) => visitor.visit_map(Entries::new(map, &[])),
            _ if self.0.is_null() => visitor.visit_map(Entries::new(&EMPTY, &[])),
            _ => Err(other(self.no_section())),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::Map(map) => visitor.visit_map(Entries::new(map, fields)),
            _ => self.deserialize_map(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_enum(Word(&self.scalar()?.text))
    }

    forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any }
}

struct Elements<'a> {
    list: std::slice::Iter<'a, Node>,
    at: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.list.next() else { return Ok(None) };
        self.at += 1;
        seed.deserialize(Reader(node)).map(Some).map_err(|fault| fault.at(&(self.at - 1).to_string()))
    }
}

const EMPTY: Map = Map(Vec::new());

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    next: Option<&'a Entry>,
    /// Keys behind which nothing means the default: as if they were not there.
    fields: &'static [&'static str],
}

impl<'a> Entries<'a> {
    fn new(map: &'a Map, fields: &'static [&'static str]) -> Self {
        Self { entries: map.0.iter(), next: None, fields }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let fields = self.fields;
        self.next = self.entries.find(|e| !(e.node.is_null() && fields.contains(&e.key.as_str())));
        let Some(entry) = self.next else { return Ok(None) };
        let key: de::value::StrDeserializer<'_, Fault> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|fault| fault.at(&entry.key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(entry) = self.next else { return Err(other("a value without a key")) };
        seed.deserialize(Reader(&entry.node)).map_err(|fault| fault.at(&entry.key))
    }
}

/// A word that names a variant.
struct Word<'a>(&'a str);

impl<'de> EnumAccess<'de> for Word<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let word: de::value::StrDeserializer<'_, Fault> = self.0.into_deserializer();
        Ok((seed.deserialize(word)?, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Fault> {
        Err(other("a word is expected here"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(other("a word is expected here"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        Err(other("a word is expected here"))
    }
}
