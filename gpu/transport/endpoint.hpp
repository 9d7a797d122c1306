// Addresses of transports: parsing what a peer sent and choosing the ways that can work from here, cheapest first.
// Reads the host's identity; opens nothing.
#pragma once
#include "gpu/transport/transport.hpp"
#include <cstdint>
#include <string>
#include <vector>

namespace hflex::gpu {

enum class path_kind : std::uint8_t { local, shm, tcp };

struct endpoint {
  path_kind kind{};
  std::string address; ///< local: process id; shm: abstract socket name; tcp: numeric host
  std::uint16_t port{};
  std::string text; ///< as it was sent
};

/// 128 random bits in hex: names that nobody guesses and no two processes share.
std::string random_name();

/// Says that two processes can reach each other's abstract sockets: the boot of the kernel plus the network namespace
/// (which is what abstract socket names belong to; two containers of one host may have different ones).
std::string shm_host_id();

/// The parts of a peer's list that can work from this process, cheapest first. Malformed entries, other hosts' shm
/// entries and paths that `options` switch off are left out; only the first 16 entries are looked at.
std::vector<endpoint> usable_endpoints(const endpoint_list& peer, const transport_options& options,
    const std::string& local_id, const std::string& host_id);

/// The addresses at which a peer gives weights to other hosts.
std::vector<endpoint> weights_endpoints(const endpoint_list& peer);

} // namespace hflex::gpu
