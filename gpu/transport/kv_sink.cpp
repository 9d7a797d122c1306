#include "gpu/transport/kv_sink.hpp"
#include "gpu/transport/kv_shape.hpp"

namespace hflex::gpu {
namespace {

std::string inbound(transfer_id id) { return fmt::format("inbound KV transfer {}", id.value); }

/// Of a number that a peer sent.
std::string_view element_name(std::uint32_t code) {
  return code < compute_names.size() ? compute_names[code] : "an unknown type";
}

} // namespace

void kv_sink::admit() {
  for (auto& spec : expected_.take_all()) admit_one(std::move(spec));
}

void kv_sink::admit_one(sink_spec spec) {
  const transfer_id id = spec.id;
  const auto refuse = [&](error why) {
    completions_.add(transfer_side::sink, id, std::move(spec.done), pass(std::move(why)));
  };
  if (entries_.size() >= max_transfers_)
    return refuse({errc::retry, fmt::format("{} transfers wait", entries_.size())});
  if (entries_.count(id) > 0) return refuse({errc::reject, inbound(id) + ": already expected"});
  if (auto fits = check_transfer(id, spec.shape, spec.context.get(), spec.table); !fits) return refuse(fits.error());
  coverage nothing{spec.shape.layers, spec.shape.tokens};
  const auto lease = spec.lease;
  const auto it = entries_.emplace(id, entry{std::move(spec), std::move(nothing)}).first;
  it->second.lease = loop_.after(
      lease, [this, it] { give_up(it, fault::lease_ended, describe(fault::lease_ended, inbound(it->first))); });
}

void kv_sink::close(transfer_id id) {
  admit();
  completions_.withdraw(transfer_side::sink, id);
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  it->second.spec.done = nullptr;
  give_up(it, fault::closed, describe(fault::closed, inbound(id)));
}

void kv_sink::close_all() {
  admit();
  while (!entries_.empty())
    give_up(entries_.begin(), fault::closed, {errc::reroute, inbound(entries_.begin()->first) + ": transport ends"});
}

void kv_sink::on_frame(
    source_peer& from, const frame_header& header, std::span<const std::byte> payload, bool verified) {
  if (header.type == frame_type::open) return on_open(from, header);
  const auto it = entries_.find(header.transfer);
  if (it == entries_.end() || it->second.from != &from) return;
  if (header.type == frame_type::data) return on_data(it, header, payload, verified);
  complete(it, pass(describe(fault_of(header), inbound(it->first) + " by its source")));
}

void kv_sink::on_gone(source_peer& from, const error& why) {
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (it->second.from == &from)
      it = complete(it, fail(why.code, "{}: {}", inbound(it->first), why.message));
    else
      ++it;
  }
}

void kv_sink::on_open(source_peer& from, const frame_header& header) {
  admit(); // the source may have heard of its invitation sooner than this thread
  const auto it = entries_.find(header.transfer);
  // One answer for all: a stranger learns nothing about which transfers exist.
  if (it == entries_.end() || it->second.spec.key != header.key || it->second.from != nullptr)
    return from.send(failed_frame(header.transfer, fault::refused));
  it->second.from = &from;
  ++from.transfers;
  const kv_shape& shape = it->second.spec.shape;
  if (header.layer == shape.layers && header.count == shape.tokens && header.position == shape.token_layer_bytes &&
      header.code == static_cast<std::uint32_t>(shape.element))
    return;
  give_up(it, fault::mismatch,
      {errc::reject, fmt::format("{}: source has {} layers, {} tokens, {} bytes each of {}: expected {}, {}, {} of {}",
                         inbound(it->first), header.layer, header.count, header.position, element_name(header.code),
                         shape.layers, shape.tokens, shape.token_layer_bytes, name_of(shape.element))});
}

void kv_sink::on_data(
    entries::iterator it, const frame_header& header, std::span<const std::byte> payload, bool verified) {
  entry& e = it->second;
  const bool whole = payload.size() == header.count * e.spec.shape.token_layer_bytes;
  if (!whole || !e.arrived.is_new(header.layer, header.begin, header.count))
    return give_up(it, fault::protocol,
        {errc::reject, fmt::format("{}: rows {}+{} of layer {} in {} bytes came twice or do not belong",
                           inbound(it->first), header.begin, header.count, header.layer, payload.size())});
  if (!verified && payload_checksum(payload) != header.checksum)
    return give_up(it, fault::checksum, describe(fault::checksum, inbound(it->first)));
  if (auto written = e.spec.context->write_kv(header.layer, e.spec.table, header.begin, header.count, payload);
      !written)
    return give_up(it, fault::device, written.error());
  e.arrived.mark(header.layer, header.begin, header.count);
  if (!e.arrived.complete()) return;
  frame_header delivered;
  delivered.type = frame_type::delivered;
  delivered.transfer = it->first;
  e.from->send(delivered);
  complete(it, {});
}

void kv_sink::give_up(entries::iterator it, fault cause, error why) {
  if (it->second.from != nullptr) it->second.from->send(failed_frame(it->first, cause));
  complete(it, pass(std::move(why)));
}

kv_sink::entries::iterator kv_sink::complete(entries::iterator it, result<void> outcome) {
  entry& e = it->second;
  loop_.cancel(e.lease);
  if (e.from != nullptr) --e.from->transfers;
  if (e.spec.done) completions_.add(transfer_side::sink, it->first, std::move(e.spec.done), std::move(outcome));
  return entries_.erase(it);
}

} // namespace hflex::gpu
