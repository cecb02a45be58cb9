// Prints a digest of what every CPU kernel computes from fixed inputs, one line each. A program of
// its own, without Python, so that it can be compiled for another processor and run in an emulator
// (tools/other_platforms.sh compares its output with this machine's).
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "common/dtype.h"
#include "common/scratch_pool.h"
#include "deformable_attention/deformable_attention.h"
#include "dilated_conv2d/dilated_conv2d.h"
#include "gaussian_filter/gaussian_filter.h"
#include "mask_argmax/mask_argmax.h"
#include "mean_field/mean_field.h"
#include "permutohedral_filter/permutohedral_filter.h"
#include "pyramid_pool/pyramid_pool.h"
#include "testing/simd_checks.h"
#include "upsample_argmax/upsample_argmax.h"
#include "upsample_bilinear/upsample_bilinear.h"
#include "upsample_class_sums/upsample_class_sums.h"
#include "upsample_confusion_matrix/upsample_confusion_matrix.h"
#include "upsample_cross_entropy/upsample_cross_entropy.h"
#include "upsample_taps/upsample_taps.h"
#include "window_filter/window_filter.h"

namespace fastseg {
namespace {

using Bytes = std::vector<unsigned char>;

std::size_t item_bytes(DType dtype) {
  return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}

// `count` numbers of the type.
Bytes numbers(DType dtype, std::int64_t count) {
  Random random;
  Bytes out(static_cast<std::size_t>(count) * item_bytes(dtype));
  for (std::int64_t i = 0; i < count; ++i) {
    unsigned char* const at = out.data() + static_cast<std::size_t>(i) * item_bytes(dtype);
    const double value = random.number();
    const float single = static_cast<float>(value);
    // Sign and mantissa at random, and an exponent about that of 1.
    const std::uint32_t bits = random.bits();
    const std::uint16_t bfloat16 = static_cast<std::uint16_t>((bits & 0x80ff) | 0x3f00);
    const std::uint16_t float16 = static_cast<std::uint16_t>((bits & 0x87ff) | 0x3800);
    switch (dtype) {
    case DType::float64:
      std::memcpy(at, &value, 8);
      break;
    case DType::float32:
      std::memcpy(at, &single, 4);
      break;
    case DType::bfloat16:
      std::memcpy(at, &bfloat16, 2);
      break;
    case DType::float16:
      std::memcpy(at, &float16, 2);
      break;
    }
  }
  return out;
}

Bytes zeros(DType dtype, std::int64_t count) {
  return Bytes(static_cast<std::size_t>(count) * item_bytes(dtype));
}

// FNV-1a.
void print(const std::string& name, DType dtype, const void* data, std::size_t bytes) {
  static const char* const names[] = {"float32", "bfloat16", "float16", "float64"};
  std::uint64_t hash = 14695981039346656037u;
  for (std::size_t i = 0; i < bytes; ++i)
    hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 1099511628211u;
  std::printf("%s %s %016" PRIx64 "\n", name.c_str(), names[static_cast<int>(dtype)], hash);
}
void print(const std::string& name, DType dtype, const Bytes& data) {
  print(name, dtype, data.data(), data.size());
}

constexpr std::int64_t kBatch = 2, kChannels = 19, kHeight = 13, kWidth = 21, kOutHeight = 37,
                       kOutWidth = 58;
constexpr std::int64_t kIn = kBatch * kChannels * kHeight * kWidth;
constexpr std::int64_t kOut = kBatch * kChannels * kOutHeight * kOutWidth;

void upsample_bilinear_digests(DType dtype, bool channels_last) {
  const auto& kernels = upsample_bilinear::cpu_kernels();
  const upsample_bilinear::Shape shape{kBatch,    kChannels, kHeight, kWidth, kOutHeight,
                                       kOutWidth, false,     0.0,     0.0,    channels_last};
  const std::string name = channels_last ? "upsample_bilinear channels_last" : "upsample_bilinear";
  const Bytes x = numbers(dtype, kIn), grad = numbers(dtype, kOut);
  Bytes out = zeros(dtype, kOut), grad_x = zeros(dtype, kIn);
  kernels.forward(dtype, x.data(), out.data(), shape, 1);
  kernels.backward(dtype, grad.data(), grad_x.data(), shape, 1);
  print(name + " forward", dtype, out);
  print(name + " backward", dtype, grad_x);
}

void pyramid_pool_digests(DType dtype, bool channels_last) {
  const auto& kernels = pyramid_pool::cpu_kernels();
  const std::int64_t sizes[] = {1, 2, 3, 6};
  const pyramid_pool::Shape shape{kBatch, kChannels, kHeight, kWidth, channels_last};
  const std::string name = channels_last ? "pyramid_pool channels_last" : "pyramid_pool";
  const std::int64_t cells = kBatch * kChannels * (1 + 4 + 9 + 36);
  const Bytes x = numbers(dtype, kIn), grad = numbers(dtype, cells);
  Bytes out = zeros(dtype, cells), grad_x = zeros(dtype, kIn);
  kernels.forward(dtype, x.data(), out.data(), shape, {sizes, 4}, 1);
  kernels.backward(dtype, grad.data(), grad_x.data(), shape, {sizes, 4}, 1);
  print(name + " forward", dtype, out);
  print(name + " backward", dtype, grad_x);
}

void deformable_attention_digests(DType dtype) {
  const auto& kernels = deformable_attention::cpu_kernels();
  const std::int64_t heights[] = {kHeight, 5}, widths[] = {kWidth, 7};
  const std::int64_t cells = kHeight * kWidth + 5 * 7, queries = 40, heads = 3, points = 4;
  const deformable_attention::Shape shape{kBatch, cells, heads, kChannels, queries, points};
  const std::int64_t places = kBatch * queries * heads * 2 * points;
  const DType wide = dtype == DType::float64 ? DType::float64 : DType::float32;
  const Bytes value = numbers(dtype, kBatch * cells * heads * kChannels),
              locations = numbers(wide, 2 * places), weights = numbers(wide, places);
  Bytes out = zeros(dtype, kBatch * queries * heads * kChannels),
        grad_value = zeros(dtype, kBatch * cells * heads * kChannels),
        grad_locations = zeros(wide, 2 * places), grad_weights = zeros(wide, places);
  kernels.forward(dtype, value.data(), locations.data(), weights.data(), out.data(), shape,
                  {heights, widths, 2}, 1);
  kernels.backward(dtype, out.data(), value.data(), locations.data(), weights.data(),
                   grad_value.data(), grad_locations.data(), grad_weights.data(), shape,
                   {heights, widths, 2}, 1);
  print("deformable_attention forward", dtype, out);
  print("deformable_attention backward, value", dtype, grad_value);
  print("deformable_attention backward, locations", wide, grad_locations);
  print("deformable_attention backward, weights", wide, grad_weights);
}

void mask_argmax_digests(DType dtype) {
  const std::int64_t classes = 23, plane = kHeight * kWidth;
  const mask_argmax::Shape shape{
      kBatch, kChannels,  classes,   kHeight,           kWidth, 31,     45, 30,
      41,     kOutHeight, kOutWidth, kChannels * plane, plane,  kWidth, 1};
  const DType wide = dtype == DType::float64 ? DType::float64 : DType::float32;
  const Bytes masks = numbers(dtype, kIn), table = numbers(wide, kBatch * kChannels * classes);
  std::vector<std::uint8_t> labels(kBatch * kOutHeight * kOutWidth);
  mask_argmax::cpu_kernels().forward(dtype, LabelType::uint8, masks.data(), table.data(),
                                     labels.data(), shape, 1);
  print("mask_argmax", dtype, labels.data(), labels.size());
}

void dilated_conv2d_digests(DType dtype, bool channels_last) {
  const auto& kernels = dilated_conv2d::cpu_kernels();
  const dilated_conv2d::Shape shape{
      kBatch, kChannels, kHeight, kWidth, kHeight, kWidth, 3, 3, 1, 1, 2, 2, 2, 2, channels_last};
  const std::string name = channels_last ? "dilated_conv2d channels_last" : "dilated_conv2d";
  const Bytes x = numbers(dtype, kIn), weight = numbers(dtype, 9 * kChannels),
              bias = numbers(dtype, kChannels);
  Bytes out = zeros(dtype, kIn), grad_x = zeros(dtype, kIn),
        grad_weight = zeros(dtype, 9 * kChannels), grad_bias = zeros(dtype, kChannels),
        workspace(static_cast<std::size_t>(kernels.workspace_bytes(dtype, shape)));
  kernels.forward(dtype, x.data(), weight.data(), bias.data(), out.data(), shape, 1);
  kernels.backward(dtype, out.data(), x.data(), weight.data(), grad_x.data(), grad_weight.data(),
                   grad_bias.data(), workspace.data(), shape, 1);
  print(name + " forward", dtype, out);
  print(name + " backward, x", dtype, grad_x);
  print(name + " backward, weight", dtype, grad_weight);
  print(name + " backward, bias", dtype, grad_bias);
}

void upsample_taps_digests(DType dtype) {
  const auto& kernels = upsample_taps::cpu_kernels();
  const upsample_taps::Shape shape{kBatch, kChannels, kOutHeight, kOutWidth, 3, false, false};
  const Bytes taps = numbers(dtype, 9 * kIn);
  const upsample_taps::Source source{taps.data(), kHeight, kWidth};
  Bytes out = zeros(dtype, kOut), grad_taps = zeros(dtype, 9 * kIn);
  kernels.forward(dtype, &source, 1, nullptr, out.data(), shape, 1);
  kernels.backward(dtype, out.data(), grad_taps.data(), kHeight, kWidth, shape, 1);
  print("upsample_taps forward", dtype, out);
  print("upsample_taps backward", dtype, grad_taps);
}

void labels_digests(DType dtype) {
  const upsample_argmax::Shape shape{
      kBatch,           kChannels, kHeight, kWidth,
      kOutHeight,       kOutWidth, true,    kChannels * kHeight * kWidth,
      kHeight * kWidth, kWidth,    1};
  const Bytes logits = numbers(dtype, kIn);
  std::vector<std::uint8_t> labels(kBatch * kOutHeight * kOutWidth), target(labels.size());
  upsample_argmax::cpu_kernels().forward(dtype, LabelType::uint8, logits.data(), labels.data(),
                                         shape, 1);
  print("upsample_argmax", dtype, labels.data(), labels.size());
  Random random;
  for (std::uint8_t& each : target) each = static_cast<std::uint8_t>(random.bits() % 20);
  std::vector<std::int64_t> counts(kChannels * kChannels);
  upsample_confusion_matrix::cpu_kernels().forward(dtype, LabelType::uint8, logits.data(),
                                                   target.data(), 19, counts.data(), shape, 1);
  print("upsample_confusion_matrix", dtype, counts.data(), counts.size() * sizeof(counts[0]));

  const upsample_cross_entropy::Shape loss_shape{
      kBatch,         kChannels,      kHeight,        kWidth, kOutHeight, kOutWidth, true,
      shape.stride_n, shape.stride_c, shape.stride_h, 1,      19,         0.1};
  const DType compute = dtype == DType::float64 ? dtype : DType::float32;
  double sums[2];
  Bytes pixel_loss = zeros(compute, kBatch * kOutHeight * kOutWidth), grad = zeros(compute, kIn);
  upsample_cross_entropy::cpu_kernels().run(
      dtype, LabelType::uint8,
      {logits.data(), target.data(), nullptr, nullptr, sums, pixel_loss.data(), grad.data(), false},
      loss_shape, 1);
  print("upsample_cross_entropy, pixels", dtype, pixel_loss);
  print("upsample_cross_entropy, sum", dtype, sums, sizeof(sums));
  print("upsample_cross_entropy, gradient", dtype, grad);

  for (const bool sigmoid : {false, true}) {
    using upsample_class_sums::Sum;
    constexpr Sum wanted[] = {Sum::kProbability, Sum::kOverlap, Sum::kLoss, Sum::kFocal};
    constexpr std::int64_t kept = 4;
    const upsample_class_sums::Shape sums_shape{kBatch,
                                                kChannels,
                                                kHeight,
                                                kWidth,
                                                kOutHeight,
                                                kOutWidth,
                                                true,
                                                shape.stride_n,
                                                shape.stride_c,
                                                shape.stride_h,
                                                1,
                                                0,
                                                0,
                                                sigmoid,
                                                19,
                                                2.0,
                                                0.0};
    std::vector<double> class_sums(kBatch * kept * kChannels);
    const Bytes coefficients = numbers(compute, kBatch * kept * kChannels);
    upsample_class_sums::Arguments arguments{};
    arguments.logits = logits.data();
    arguments.target = target.data();
    arguments.target_kind = upsample_class_sums::TargetKind::labels;
    arguments.target_type = upsample_class_sums::TargetType::uint8;
    for (int& slot : arguments.slots) slot = -1;
    for (int i = 0; i < kept; ++i) arguments.slots[wanted[i]] = i;
    arguments.kept = kept;
    arguments.sums = class_sums.data();
    const auto& kernels = upsample_class_sums::cpu_kernels();
    kernels.run(dtype, arguments, sums_shape, 1);
    arguments.sums = nullptr;
    arguments.coefficients = coefficients.data();
    arguments.grad_logits = grad.data();
    kernels.run(dtype, arguments, sums_shape, 1);
    const std::string name =
        sigmoid ? "upsample_class_sums sigmoid" : "upsample_class_sums softmax";
    print(name, dtype, class_sums.data(), class_sums.size() * sizeof(double));
    print(name + ", gradient", dtype, grad);
  }
}

void filter_digests(DType dtype) {
  constexpr std::int64_t labels = 5, dims = 3, points = kHeight * kWidth;
  const Bytes values = numbers(dtype, kBatch * labels * points),
              features = numbers(dtype, kBatch * dims * points);
  Bytes out = zeros(dtype, kBatch * labels * points), grad = zeros(dtype, kBatch * dims * points);
  const auto map = [&](const Bytes& data, std::int64_t planes) {
    return window_filter::Map<void>{data.data(), {planes * points, points, kWidth, 1}};
  };
  const window_filter::Shape window{kBatch, labels, dims, kHeight, kWidth, 3};
  window_filter::cpu_kernels().forward(dtype, map(values, labels), map(features, dims), out.data(),
                                       window, 1);
  print("window_filter forward", dtype, out);
  window_filter::cpu_kernels().feature_gradient(dtype, map(out, labels), map(values, labels),
                                                map(features, dims), grad.data(), window, 1);
  print("window_filter backward", dtype, grad);
  if (item_bytes(dtype) == 2) return;
  const gaussian_filter::Shape pairs{kBatch, labels, dims, points};
  gaussian_filter::cpu_kernels().forward(dtype, values.data(), features.data(), out.data(), pairs,
                                         1);
  print("gaussian_filter forward", dtype, out);
}

// `scale`: 1 for a lattice of packed keys, large for one of wide keys.
void lattice_digests(DType dtype, int dims, double scale) {
  constexpr std::int64_t labels = 5, points = kHeight * kWidth + 2;
  Bytes features = numbers(dtype, dims * points);
  for (std::size_t i = 0; i < features.size(); i += item_bytes(dtype)) {
    double wide;
    float single;
    if (dtype == DType::float64) {
      std::memcpy(&wide, &features[i], 8);
      wide *= scale;
      std::memcpy(&features[i], &wide, 8);
    } else {
      std::memcpy(&single, &features[i], 4);
      single *= static_cast<float>(scale);
      std::memcpy(&features[i], &single, 4);
    }
  }
  permutohedral_lattice::Lattice lattice;
  permutohedral_lattice::Lattice* const lattices[] = {&lattice};
  permutohedral_lattice::BadFeature bad;
  const auto status = permutohedral_lattice::cpu_kernels().build(dtype, features.data(), 1, dims,
                                                                 points, 1, lattices, &bad);
  const std::string name =
      "permutohedral " + std::to_string(dims) + (scale == 1.0 ? " features" : " far features");
  if (status != permutohedral_lattice::Status::ok) {
    std::printf("%s: out of range\n", name.c_str());
    return;
  }
  const std::int64_t corners = lattice.blocks() * (dims + 1) * 16;
  const auto bytes = [&](std::size_t each) { return static_cast<std::size_t>(corners) * each; };
  print(name + ", rows", dtype, lattice.rows, bytes(sizeof(std::int32_t)));
  print(name + ", weights", dtype, lattice.weights, bytes(item_bytes(dtype)));
  const Bytes values = numbers(dtype, labels * points);
  Bytes out = zeros(dtype, labels * points);
  const permutohedral_lattice::Lattice* const each[] = {&lattice};
  permutohedral_filter::cpu_kernels().filter({each, 1}, 1, labels, values.data(), out.data(), false,
                                             1);
  print(name + ", filter", dtype, out);
  Bytes grad_values = zeros(dtype, labels * points), grad_weights = zeros(dtype, corners);
  permutohedral_filter::cpu_kernels().backward({each, 1}, 1, labels, values.data(), out.data(),
                                               grad_values.data(), grad_weights.data(), false, 1);
  print(name + ", filter's gradient to values", dtype, grad_values);
  print(name + ", filter's gradient to weights", dtype, grad_weights);
  if (dtype == DType::float32) {
    const float weight = 3.0f;
    const Bytes logits = numbers(dtype, labels * points);
    std::vector<float> probabilities(labels * points);
    mean_field::Image image{};
    image.logits = reinterpret_cast<const float*>(logits.data());
    image.kernels[0] = {&lattice, nullptr, nullptr, mean_field::Compatibility::scalar, &weight};
    image.probabilities = probabilities.data();
    const mean_field::Shape shape{labels, points, 3, 1};
    const auto& kernels = mean_field::cpu_kernels();
    std::vector<float> saved(3 * static_cast<std::size_t>(kernels.saved_floats(image, shape)));
    image.saved = saved.data();
    kernels.forward(&image, 1, shape, 1);
    print("mean_field, " + name, dtype, probabilities.data(), probabilities.size() * sizeof(float));
    std::vector<float> grad_logits(probabilities.size());
    double grad_compatibility = 0;
    mean_field::Gradients gradients{};
    gradients.probabilities = reinterpret_cast<const float*>(values.data());
    gradients.logits = grad_logits.data();
    gradients.compatibility[0] = &grad_compatibility;
    kernels.backward(&image, &gradients, 1, shape, 1);
    print("mean_field's gradient, " + name, dtype, grad_logits.data(),
          grad_logits.size() * sizeof(float));
    print("mean_field's gradient to the compatibility, " + name, dtype, &grad_compatibility, 8);
  }
  give_scratch(lattice.rows);
  give_scratch(lattice.weights);
  give_scratch(lattice.neighbours);
}

} // namespace
} // namespace fastseg

int main() {
  using namespace fastseg;
  const int errors = conversion_errors<fastseg::bfloat16_t>() +
                     conversion_errors<fastseg::float16_t>() + permutation_errors<float>() +
                     permutation_errors<double>();
  if (errors > 0) {
    std::printf("%d conversions or permutations are wrong\n", errors);
    return 1;
  }
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16, DType::float64}) {
    for (const bool channels_last : {false, true}) {
      upsample_bilinear_digests(dtype, channels_last);
      pyramid_pool_digests(dtype, channels_last);
      dilated_conv2d_digests(dtype, channels_last);
    }
    deformable_attention_digests(dtype);
    mask_argmax_digests(dtype);
    upsample_taps_digests(dtype);
    labels_digests(dtype);
    filter_digests(dtype);
  }
  for (const DType dtype : {DType::float32, DType::float64}) {
    lattice_digests(dtype, 5, 1.0);
    lattice_digests(dtype, 2, 1e4);
    lattice_digests(dtype, 9, 1.0);
  }
}
