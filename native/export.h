// What Python may call: a plain C function that stays visible in the shared library.

#pragma once

#define RECEPTANCE_EXPORT extern "C" __attribute__((visibility("default")))
