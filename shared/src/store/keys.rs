//! Keys and values with names, stored as the tuples that they replace: the same bytes, the same order, the same type name, since
//! redb refuses a table whose types have others.

/// Makes a struct with named fields that redb stores as the tuple of their types.
///
/// ```
/// perigee_shared::stored_as_tuple! {
///     /// A piece of a group.
///     pub struct GroupPiece { pub group: u64, pub piece: u16 }
/// }
/// assert_eq!(
///     <GroupPiece as redb::Value>::as_bytes(&GroupPiece { group: 7, piece: 2 }),
///     <(u64, u16) as redb::Value>::as_bytes(&(7, 2)),
/// );
/// ```
#[macro_export]
macro_rules! stored_as_tuple {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        $vis struct $name { $($(#[$field_meta])* $field_vis $field: $type),+ }

        impl redb::Value for $name {
            type SelfType<'a> = Self;
            type AsBytes<'a> = Vec<u8>;

            fn fixed_width() -> Option<usize> {
                <($($type,)+) as redb::Value>::fixed_width()
            }

            fn from_bytes<'a>(data: &'a [u8]) -> Self where Self: 'a {
                let ($($field,)+) = <($($type,)+) as redb::Value>::from_bytes(data);
                Self { $($field),+ }
            }

            fn as_bytes<'a, 'b: 'a>(value: &'a Self) -> Vec<u8> where Self: 'b {
                <($($type,)+) as redb::Value>::as_bytes(&($(value.$field,)+))
            }

            fn type_name() -> redb::TypeName {
                <($($type,)+) as redb::Value>::type_name()
            }
        }

        impl redb::Key for $name {
            fn compare(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
                <($($type,)+) as redb::Key>::compare(a, b)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use redb::{Key, ReadableDatabase, ReadableTable, TableDefinition, Value};

    stored_as_tuple! {
        struct Place { lane: u8, sequence: u64, piece: u32 }
    }

    const OLD: TableDefinition<'_, (u8, u64, u32), (u64, u64)> = TableDefinition::new("t");
    stored_as_tuple! {
        struct Numbers { next: u64, position: u64 }
    }
    const NEW: TableDefinition<'_, Place, Numbers> = TableDefinition::new("t");

    #[test]
    fn a_table_of_tuples_opens_as_a_table_of_named_fields_and_has_the_same_order() {
        let db =
            redb::Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
        let txn = db.begin_write().unwrap();
        for n in [300u64, 2, 1 << 40] {
            txn.open_table(OLD).unwrap().insert((3, n, 9), (n, 1)).unwrap();
        }
        txn.commit().unwrap();
        let read = db.begin_read().unwrap();
        let table = read.open_table(NEW).unwrap();
        let all: Vec<u64> = table.iter().unwrap().map(|r| r.unwrap().1.value().next).collect();
        assert_eq!(all, [2, 300, 1 << 40]);
        let key = Place { lane: 3, sequence: 2, piece: 9 };
        assert_eq!(table.get(key).unwrap().unwrap().value(), Numbers { next: 2, position: 1 });
        let bytes = |p: Place| Place::as_bytes(&p);
        assert!(Place::compare(&bytes(key), &bytes(Place { sequence: 300, ..key })).is_lt());
    }
}
