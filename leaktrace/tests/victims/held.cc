// Objects of classes with virtual functions in a map, which a global variable is.
#include "victim.h"

#include <map>
#include <memory>

namespace shop
{
struct Item {
    virtual ~Item() = default;
    virtual long price() const = 0;
};

template <int PRICE> struct Priced : Item {
    long stock[4] = {};
    long price() const override
    {
        return PRICE;
    }
};

struct Book : Item {
    long pages = 0;
    long price() const override
    {
        return pages;
    }
};
} // namespace shop

static std::map<int, std::unique_ptr<shop::Item>> items;

// Begins with the address of a string, in the same section as vtables that need no relocation.
struct Label {
    const char *text;
    long length[5];
};
static Label *label;

SITE_FN static shop::Item *make_book()
{
    shop::Item *book = new shop::Book;
    KEEP_FRAME();
    return book;
}

SITE_FN static shop::Item *make_pen()
{
    shop::Item *pen = new shop::Priced<7>;
    KEEP_FRAME();
    return pen;
}

SITE_FN static shop::Item *make_any(int number)
{
    shop::Item *any = number % 2 ? static_cast<shop::Item *>(new shop::Book) : new shop::Priced<7>;
    KEEP_FRAME();
    return any;
}

SITE_FN static Label *make_label()
{
    Label *made = new Label{"a label that is no vtable", {}};
    KEEP_FRAME();
    return made;
}

SITE_FN static void keep(int number, shop::Item *item)
{
    items[number].reset(item);
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    for (int number = 0; number < 50; number++) {
        keep(3 * number, make_book());
        keep(3 * number + 1, make_pen());
        keep(3 * number + 2, make_any(number));
    }
    label = make_label();
    victim_say("done\n");
    victim_await();
    // Its destructors run after this.
    _exit(0);
}
