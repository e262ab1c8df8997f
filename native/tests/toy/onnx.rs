//! Writes small ONNX models: field numbers of onnx.proto, IR 10, opset 21.

use crate::common::bytes_of;
use loramux_native::kernels::simd::Dtype;

/// A protobuf message under construction.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn int(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    pub fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    pub fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub fn message(self, field: u64, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }
}

#[derive(Clone, Copy)]
pub enum Attribute {
    Int(i64),
    Float(f32),
}

/// The graph of a model whose floats are all of one type.
pub struct Graph {
    body: Message,
    dtype: Dtype,
}

impl Graph {
    pub fn of(dtype: Dtype) -> Self {
        Self { body: Message::default(), dtype }
    }

    /// `TensorProto.DataType`.
    fn element(&self) -> i64 {
        match self.dtype {
            Dtype::F32 => 1,
            Dtype::F16 => 10,
            Dtype::Bf16 => 16,
        }
    }

    pub fn node(&mut self, domain: &str, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Attribute)]) {
        let mut node = Message::default();
        for input in inputs {
            node = node.text(1, input);
        }
        for output in outputs {
            node = node.text(2, output);
        }
        node = node.text(3, outputs[0]).text(4, op);
        for (name, value) in attributes {
            let attribute = Message::default().text(1, name);
            node = node.message(
                5,
                &match value {
                    Attribute::Int(value) => attribute.int(3, *value).int(20, 2),
                    Attribute::Float(value) => attribute.float(2, *value).int(20, 1),
                },
            );
        }
        self.put(1, &node.text(7, domain));
    }

    pub fn initializer(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let raw = bytes_of(self.dtype, values);
        let dims = shape.iter().fold(Message::default(), |tensor, &n| tensor.int(1, n as i64));
        self.put(5, &dims.int(2, self.element()).text(8, name).bytes(9, &raw));
    }

    /// Of uint8.
    pub fn bytes(&mut self, name: &str, shape: &[usize], values: &[u8]) {
        let dims = shape.iter().fold(Message::default(), |tensor, &n| tensor.int(1, n as i64));
        self.put(5, &dims.int(2, 2).text(8, name).bytes(9, values));
    }

    /// Graph input of int64 [symbol].
    pub fn input(&mut self, name: &str, symbol: &str) {
        self.put(11, &value(name, 7, &[Message::default().text(2, symbol)]));
    }

    /// Graph output of floats [symbol, width].
    pub fn output(&mut self, name: &str, symbol: &str, width: usize) {
        self.put(12, &value(name, self.element(), &[Message::default().text(2, symbol), Message::default().int(1, width as i64)]));
    }

    pub fn model(self) -> Vec<u8> {
        let mut model = Message::default().int(1, 10).message(7, &self.body.text(2, "toy"));
        for (domain, version) in [("", 21), ("com.microsoft", 1), ("loramux", 1)] {
            model = model.message(8, &Message::default().text(1, domain).int(2, version));
        }
        model.0
    }

    fn put(&mut self, field: u64, value: &Message) {
        self.body = std::mem::take(&mut self.body).message(field, value);
    }
}

fn value(name: &str, element: i64, dims: &[Message]) -> Message {
    let shape = dims.iter().fold(Message::default(), |shape, dim| shape.message(1, dim));
    let tensor = Message::default().int(1, element).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}
