// Fills any Cap'n Proto struct with random content, every field and every list, so that tests cover schemas that they
// do not know by name.
#pragma once
#include "actors/wire/msg.hpp"
#include <capnp/dynamic.h>
#include <capnp/schema.h>
#include <random>
#include <string>

namespace hflex::test {

using dice = std::mt19937;

inline constexpr unsigned longest_random_list = 3;

template <class Set, class Init>
void fill_value(capnp::Type type, dice& random, Set set, Init init);

inline void fill(capnp::DynamicStruct::Builder out, dice& random) {
  auto fill_field = [&](capnp::StructSchema::Field field) {
    auto proto = field.getProto();
    if (proto.isGroup()) {
      fill(out.init(field).as<capnp::DynamicStruct>(), random);
      return;
    }
    fill_value(
        field.getType(), random, [&](const capnp::DynamicValue::Reader& v) { out.set(field, v); },
        [&](unsigned size) { return size > 0 ? out.init(field, size) : out.init(field); });
  };
  const auto schema = out.getSchema();
  const auto fields = schema.getNonUnionFields();
  for (unsigned i = 0; i < fields.size(); ++i) fill_field(fields[i]);
  if (const auto choices = schema.getUnionFields(); choices.size() > 0)
    fill_field(choices[static_cast<unsigned>(random() % choices.size())]);
}

inline void fill_list(capnp::DynamicList::Builder out, dice& random) {
  for (unsigned i = 0; i < out.size(); ++i)
    fill_value(
        out.getSchema().getElementType(), random, [&](const capnp::DynamicValue::Reader& v) { out.set(i, v); },
        [&](unsigned size) { return size > 0 ? capnp::DynamicValue::Builder{out.init(i, size)} : out[i]; });
}

template <class Set, class Init>
void fill_value(capnp::Type type, dice& random, Set set, Init init) {
  switch (type.which()) {
  case capnp::schema::Type::BOOL:
    return set(random() % 2 == 0);
  case capnp::schema::Type::FLOAT32:
  case capnp::schema::Type::FLOAT64:
    return set(static_cast<double>(random() % 1000) / 8);
  case capnp::schema::Type::TEXT:
    return set(capnp::Text::Reader(std::string(random() % 20, 'x').c_str()));
  case capnp::schema::Type::DATA: {
    const std::string bytes(random() % 20, 'x');
    return set(capnp::Data::Reader(reinterpret_cast<const capnp::byte*>(bytes.data()), bytes.size()));
  }
  case capnp::schema::Type::ENUM:
    return set(capnp::DynamicEnum(type.asEnum(), static_cast<std::uint16_t>(random() % 2)));
  case capnp::schema::Type::STRUCT:
    return fill(init(0).template as<capnp::DynamicStruct>(), random);
  case capnp::schema::Type::LIST:
    return fill_list(
        init(1 + static_cast<unsigned>(random() % longest_random_list)).template as<capnp::DynamicList>(), random);
  default:
    return set(static_cast<std::uint64_t>(random() % 100));
  }
}

template <class Schema>
wire::msg<Schema> random_message(dice& random) {
  return wire::msg<Schema>::make([&](typename Schema::Builder out) { fill(capnp::toDynamic(out), random); });
}

} // namespace hflex::test
