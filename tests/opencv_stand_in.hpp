// What the snippets of the page for integrators take from OpenCV, for binary PPM files alone: tests need no OpenCV.
#pragma once
#include <fstream>
#include <string>
#include <vector>

namespace cv {
struct Size {};
struct Scalar {};

struct Mat {
    std::vector<int> size;  // of a blob: 1, 3, H, W
    std::vector<float> values;
    std::size_t total() const { return values.size(); }
    template <typename T> T* ptr() { return values.data(); }
};

inline Mat imread(const std::string& name) {  // binary PPM, as H x W x BGR
    std::ifstream file(name, std::ios::binary);
    std::string kind;
    int width, height, most;
    file >> kind >> width >> height >> most;
    file.get();
    Mat picture{{1, 3, height, width}, {}};
    for (int pixel = 0; pixel < width * height; ++pixel) {
        unsigned char rgb[3];
        file.read(reinterpret_cast<char*>(rgb), 3);
        picture.values.insert(picture.values.end(), {float(rgb[2]), float(rgb[1]), float(rgb[0])});
    }
    return picture;
}

namespace dnn {
inline Mat blobFromImage(const Mat& picture, double scale, Size, Scalar, bool swap) {
    Mat blob{picture.size, std::vector<float>(picture.total())};
    const std::size_t area = picture.total() / 3;
    for (std::size_t pixel = 0; pixel < area; ++pixel)
        for (int channel = 0; channel < 3; ++channel)
            blob.values[channel * area + pixel] =
                float(picture.values[3 * pixel + (swap ? 2 - channel : channel)] * scale);
    return blob;
}
}  // namespace dnn
}  // namespace cv
