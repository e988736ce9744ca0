//! Columns into records, by the schema.

use std::collections::HashSet;
use std::ops::Range;

use parquet::basic::{ConvertedType, LogicalType, Repetition};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::column::Column;
use crate::error::Result;

/// A part of a record, with the definition levels that say whether it is there.
pub(super) enum Node {
    /// A column, by its number.
    Value(usize),
    /// An object of these.
    Group { fields: Vec<(String, Node)>, columns: Range<usize>, there: i16 },
    /// A list of these, or of entries of an object.
    List { item: Box<Node>, is_map: bool, columns: Range<usize>, there: i16, filled: i16, repetition: i16 },
}

/// How many levels and columns are around and before a part of the schema.
#[derive(Clone, Copy)]
struct Place {
    definition: i16,
    repetition: i16,
    column: usize,
}

impl Place {
    /// Within a list.
    fn repeated(self) -> Self {
        Place { definition: self.definition + 1, repetition: self.repetition + 1, ..self }
    }
}

impl Node {
    /// Of a file's schema.
    ///
    /// # Errors
    /// It has a group without columns, or a name twice.
    pub fn of(schema: &Type) -> Result<Self, String> {
        group(schema, Place { definition: 0, repetition: 0, column: 0 })
    }

    /// The columns of it.
    pub fn columns(&self) -> Range<usize> {
        match self {
            Node::Value(column) => *column..column + 1,
            Node::Group { columns, .. } | Node::List { columns, .. } => columns.clone(),
        }
    }

    /// The next value of it.
    pub fn read(&self, all: &mut [Column]) -> Result<Value> {
        match self {
            Node::Value(column) => all[*column].take(),
            Node::Group { fields, columns, there } => {
                if all[columns.start].definition()? < *there {
                    return pass(&mut all[columns.clone()]);
                }
                let mut object = Map::new();
                for (name, field) in fields {
                    let value = field.read(all)?;
                    if !value.is_null() {
                        object.insert(name.clone(), value);
                    }
                }
                Ok(object.into())
            }
            Node::List { item, is_map, columns, there, filled, repetition } => {
                let definition = all[columns.start].definition()?;
                if definition < *filled {
                    let null = pass(&mut all[columns.clone()])?;
                    return Ok(if definition < *there { null } else { container(*is_map, Vec::new()) });
                }
                let mut items = vec![item.read(all)?];
                while all[columns.start].peek()?.is_some_and(|(next, _)| next >= *repetition) {
                    items.push(item.read(all)?);
                }
                Ok(container(*is_map, items))
            }
        }
    }
}

/// Passes by a null in each column.
fn pass(columns: &mut [Column]) -> Result<Value> {
    columns.iter_mut().try_for_each(|column| column.take().map(drop))?;
    Ok(Value::Null)
}

/// A list, or the object of its entries where their keys are texts.
fn container(is_map: bool, items: Vec<Value>) -> Value {
    let entry =
        |item: &Value| Some((item.get("key")?.as_str()?.to_owned(), item.get("value").cloned().unwrap_or_default()));
    let object = is_map.then(|| items.iter().map(entry).collect::<Option<Map<_, _>>>()).flatten();
    object.filter(|object| object.len() == items.len()).map_or(Value::Array(items), Value::Object)
}

/// A field, whatever its repetition.
fn field(field: &Type, place: Place) -> Result<Node, String> {
    match field.get_basic_info().repetition() {
        Repetition::REQUIRED => value(field, place),
        Repetition::OPTIONAL => value(field, Place { definition: place.definition + 1, ..place }),
        Repetition::REPEATED => Ok(list(value(field, place.repeated())?, false, place)),
    }
}

/// What a field holds, once it is there.
fn value(field: &Type, place: Place) -> Result<Node, String> {
    if field.is_primitive() {
        return Ok(Node::Value(place.column));
    }
    match repeated(field) {
        Some((item, is_map)) => Ok(list(self::item(field, item, is_map, place.repeated())?, is_map, place)),
        None => group(field, place),
    }
}

/// The repeated group of a list or a map.
fn repeated(field: &Type) -> Option<(&Type, bool)> {
    use ConvertedType as C;
    let [item] = field.get_fields() else { return None };
    let info = field.get_basic_info();
    let is_map = match (info.logical_type_ref(), info.converted_type()) {
        (Some(LogicalType::Map), _) | (_, C::MAP | C::MAP_KEY_VALUE) => true,
        (Some(LogicalType::List), _) | (_, C::LIST) => false,
        _ => return None,
    };
    (item.get_basic_info().repetition() == Repetition::REPEATED).then_some((&**item, is_map))
}

/// The item of a list: what is in the repeated group, or in old files that group itself
/// (<https://github.com/apache/parquet-format/blob/master/LogicalTypes.md#backward-compatibility-rules>).
fn item(list: &Type, repeated: &Type, is_map: bool, place: Place) -> Result<Node, String> {
    let is_item = repeated.is_primitive()
        || repeated.get_fields().len() != 1
        || repeated.name() == "array"
        || repeated.name() == format!("{}_tuple", list.name());
    if is_map || is_item { value(repeated, place) } else { field(&repeated.get_fields()[0], place) }
}

fn list(item: Node, is_map: bool, place: Place) -> Node {
    let Place { definition: there, repetition, .. } = place;
    let columns = item.columns();
    Node::List { item: Box::new(item), is_map, columns, there, filled: there + 1, repetition: repetition + 1 }
}

fn group(group: &Type, place: Place) -> Result<Node, String> {
    let mut next = place.column;
    let mut fields = Vec::new();
    let mut names = HashSet::new();
    for child in group.get_fields() {
        let node = field(child, Place { column: next, ..place })?;
        if !names.insert(child.name()) {
            return Err(format!("the column `{}` is given twice; keep one", child.name()));
        }
        next = node.columns().end;
        fields.push((child.name().to_owned(), node));
    }
    if fields.is_empty() {
        return Err(format!("`{}` has no columns", group.name()));
    }
    Ok(Node::Group { fields, columns: place.column..next, there: place.definition })
}
