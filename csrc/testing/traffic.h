// What kernels read and write in the emulation, counted as a GPU's memory system sees it.
//
// The test build instruments the .cu files (-fsanitize=thread without its library; traffic.cpp has
// the functions it calls). What the lanes of a warp do at the same place of the code, the k-th time
// between two barriers, is one request; a request to global memory is sent as sectors of 32 bytes,
// one to shared memory as one wavefront for each time that a bank is needed for another word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace fastseg::traffic {

struct Accesses {
  std::int64_t requests = 0, sent = 0; // sectors of all requests
  std::int64_t partial = 0;            // those with bytes that nobody asked for
  std::int64_t needed = 0;             // different sectors
  std::int64_t by_blocks = 0; // the different ones of each block: what L1 cannot keep from L2
};

struct Launch {
  std::string what;
  const void* kernel;
  std::int64_t blocks;
  int threads;
  std::int64_t sampled; // blocks that ran
  Accesses loads, stores;
  std::int64_t shared_groups = 0, wavefronts = 0; // without a conflict as many as groups
};

// Until stop(), a launch runs at most so many blocks (0: none), in runs of neighbours spread over
// the grid, and is recorded.
void start(std::int64_t sampled_blocks);
std::vector<Launch> stop();
bool watching();
// Counted as global memory while watching.
void add_memory(const void* p, std::size_t bytes);

// Called by the emulation.
std::vector<std::int64_t> begin_launch(const char* what, const void* kernel, std::int64_t blocks,
                                       int threads); // returns the blocks to run
void end_phase();                                    // all threads of the block have met
void end_block();
void end_launch();
// An access of more than 8 bytes, whose single words are then not counted again.
void read_vector(const void* p, std::size_t bytes);
void write_vector(const void* p, std::size_t bytes);

} // namespace fastseg::traffic
